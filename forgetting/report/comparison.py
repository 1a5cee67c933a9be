"""One comparison of two states of a network as a self-contained HTML page."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from markupsafe import Markup

from forgetting.protocol.statistics import Interval
from forgetting.report.losses import SMALL
from forgetting.report.rendering import drawing, render
from forgetting.report.tables import minus, within, written

_CLASSES = 12
LAYERS = ("By layer, in the network's order: how far its weights went relative to their size; how alike its outputs "
          "are before and after, up to rotation and scale; how far the weights went that the source's answers depend "
          "on (half of it would be the answers' divergence if no two weights acted together).")
_REPAIRS = ("Plain bars: the two models. Hatched: the new model, repaired without training below the head. The dashed "
            "line is the old model; a thick tick is what the same repair gives the old model, the most there was to "
            "find.")
_RELIABILITY = ("Each point is a bin of confidence, its area the share of examples in it; below the diagonal is too "
                "sure.")


def comparison_page(data: Mapping[str, Any], path: str | os.PathLike[str]) -> Path:
    """Write one HTML file about what a fine-tune lost: verdict, what comes back, classes, calibration, drift by layer.

    It needs no network, no script and no other file; the same data give the same bytes.

    Args:
        data: what :meth:`forgetting.diagnosis.Comparison.as_data` gives.
        path: of the file to write; an existing one is replaced.

    Returns:
        The path.

    Raises:
        ValueError: for data of another kind.
        ModuleNotFoundError: without matplotlib; the extra ``report`` brings it.

    **Cost**: about a second.
    """
    if not str(data.get("format", "")).startswith("forgetting.comparison/"):
        raise ValueError(f"a page is made of Comparison.as_data(), got data of the format {data.get('format')!r}")
    plots = drawing()
    with plots.look():
        drawn = _figures(plots, data)
    text = render("comparison.html.jinja", verdict=data["verdict"], facts=_facts(data), figures=_answers(data),
                  recoveries=_recoveries(data), modules=_modules(data), drops=_drops(data), **drawn)
    path = Path(path)
    temporary = path.with_name(f"{path.name}.part")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
    return path


def _figures(plots: ModuleType, data: Mapping[str, Any]) -> dict[str, Any]:
    """Figures and captions by the template's names."""
    def inline(name: str, title: str, figure: Any) -> Markup:
        return Markup(plots.inline(figure, name, title))

    accuracy = {"before": data["before"]["accuracy"], "after": data["after"]["accuracy"]}
    measured = [each for each in data["recoveries"] if each["accuracy"] is not None]
    accuracy |= {each["name"]: each["accuracy"] for each in measured}
    references = {each["name"]: each["reference"] for each in measured if each["reference"] is not None}
    what = "accuracy on the source" if data["labelled"] else "answers that are the old model's"
    bins = data["before"]["reliability"], data["after"]["reliability"]
    classes = data["classes"][:_CLASSES]
    more = len(data["classes"]) - len(classes)
    layers = plots.over_layers_of([plots.Moved("", plots.PLAIN, {each["name"]: each for each in data["modules"]})])
    hidden = layers[1] if layers else 0
    return {
        "repairs": inline("repairs", "Accuracy before, after, and after each repair",
                          plots.repair_bars(accuracy, references, what)),
        "repairs_caption": _REPAIRS,
        "classes": inline("classes", "Accuracy of classes before and after", plots.forgotten(classes)),
        "classes_caption": ("The most forgotten classes, with their numbers of examples."
                            + (f" {more} more lost less." if more else "")),
        "reliability": (inline("reliability", "Accuracy over confidence", plots.reliability(*bins)) if all(bins)
                        else None),
        "reliability_caption": _RELIABILITY,
        "layers": inline("layers", "Drift by layer", layers[0]) if layers else None,
        "layers_caption": LAYERS + (f" {hidden} layers that moved less are left out." if hidden else ""),
    }


def _facts(data: Mapping[str, Any]) -> str:
    """What it stands on."""
    kind = "labelled" if data["labelled"] else "unlabelled (the old model's answers stand for labels)"
    columns = "" if data["outputs"] is None else f" Outputs compared: {len(data['outputs'])}."
    return f"{data['examples']} {kind} examples of the source; Fisher diagonal with {data['labels']} labels.{columns}"


def _answers(data: Mapping[str, Any]) -> dict[str, Any]:
    """Accuracy, flips and calibration."""
    def pair(name: str, key: str, scale: float, digits: int) -> dict[str, Any]:
        values = (data[which][key] for which in ("before", "after"))
        return {"name": name, "cells": [written("–" if value is None else f"{scale * value:.{digits}f}")
                                        for value in values]}

    def single(name: str, found: Mapping[str, Any] | None) -> list[dict[str, Any]]:
        return [] if found is None else [{"name": name, "cells": [written(""), within(Interval(**found))]}]

    rows = [pair("accuracy (%)" if data["labelled"] else "the old model's answer (%)", "accuracy", 100, 1),
            pair("mean confidence (%)", "confidence", 100, 1),
            pair("expected calibration error (%)", "calibration_error", 100, 1),
            pair("negative log-likelihood (nats)", "negative_log_likelihood", 1, 3),
            *single("accuracy after less before (points)", data["difference"]),
            *single("same answer (%)", data["agreement"]),
            *single("right before, wrong after (%)", data["negative_flips"]),
            *single("wrong before, right after (%)", data["positive_flips"])]
    return {"heads": ["on the source", "before", "after (95 % interval)"], "rows": rows, "note": ""}


def _recoveries(data: Mapping[str, Any]) -> dict[str, Any]:
    """Every repair in numbers."""
    rows = []
    for each in data["recoveries"]:
        told = "–" if each["accuracy"] is None else f"{100 * each['accuracy']:.1f}"
        gain = within(None if each["gain"] is None else Interval(**each["gain"]))
        lost = data["before"]["accuracy"] - data["after"]["accuracy"]
        share = "–" if each["share"] is None or lost <= SMALL else minus(f"{100 * each['share']:.0f}")
        old = "–" if each["reference"] is None else f"{100 * each['reference']:.1f}"
        rows.append({"name": each["name"],
                     "cells": [written(told), gain, written(share), written(old), written(each["note"] or "")]})
    return {"heads": ["repair", "accuracy (%)", "points back (95 % interval)", "share of the loss (%)",
                      "the old model so (%)", ""], "rows": rows, "note": ""}


def _modules(data: Mapping[str, Any]) -> dict[str, Any]:
    """Every module in numbers."""
    rows = [{"name": each["name"] or "(itself)", "cells": [
        written(each["kind"]), written(f"{each['weights']:,}"), written(f"{100 * each['relative']:.1f}"),
        written("–" if each["cka"] is None else f"{each['cka']:.3f}"), written(f"{each['fisher']:.3g}"),
        written(f"{100 * each['fisher'] / data['fisher']:.1f}" if data["fisher"] else "–"),
    ]} for each in data["modules"]]
    return {"heads": ["layer", "kind", "weights", "‖Δθ‖ ÷ ‖θ‖ (%)", "CKA", "Σ F Δθ²", "its share (%)"], "rows": rows,
            "note": f"Σ F Δθ² over all weights: {data['fisher']:.4g}."}


def _drops(data: Mapping[str, Any]) -> dict[str, Any]:
    """Every class in numbers."""
    rows = [{"name": f"class {each['label']}", "cells": [
        written(each["examples"]), written(f"{100 * each['before']:.1f}"), written(f"{100 * each['after']:.1f}"),
        written(minus(f"{-100 * each['drop']:+.1f}"))]} for each in data["classes"]]
    return {"heads": ["class", "examples", "before (%)", "after (%)", "points"], "rows": rows, "note": ""}
