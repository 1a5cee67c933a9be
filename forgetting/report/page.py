"""One self-contained HTML page: what was kept, what was learned, what it cost, and where the numbers come from."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

from markupsafe import Markup

from forgetting.protocol import Result
from forgetting.report import swept, tables
from forgetting.report.comparison import LAYERS
from forgetting.report.fronts import fronts
from forgetting.report.groups import experiments
from forgetting.report.headline import headline
from forgetting.report.losses import ASK, UNKNOWN, left_out, losses, table, verdicts
from forgetting.report.nearness import Similarities, joined
from forgetting.report.provenance import provenance
from forgetting.report.published import Publication, reproduction
from forgetting.report.ranks import ranking
from forgetting.report.rendering import drawing, render
from forgetting.report.sweeps import Reported, reported
from forgetting.tasks.unknown import nearest

PICTURES = {
    "plane": "the source was never learned, or there is one task only",
    "strengths": "no method was run at several strengths with the same seeds",
    "fronts": "no method with a known retention and adaptation was run at several strengths with the same seeds",
    "lost": f"no run holds a diagnosis; {ASK} keeps one",
    "moved": f"no run holds a diagnosis; {ASK} keeps one",
    "ranks": "ranks need two methods, each on the same two sequences or more",
}

_PLANE = ("Up is kept, right is learned; the best corner is top right. Each marker is a mean over seeds with its "
          "standard error; a line joins runs of one method that differ in one number, or the models on the straight "
          "way from before (0) to after (1) that weight interpolation offers.")
_NUMBERED = (" Of many methods those are named that no other beats in both figures, and what the others are compared "
             "with; the key has the numbers of the others.")
_STEPS = ("Test accuracy while the tasks are learned, mean and standard error over seeds; vertical lines are ends of "
          "tasks, and a task's last point is the model that was kept. Nothing was chosen by these curves.")
_SCALED = " Methods that take more steps a task (joint training sees more data) are drawn to the width of the others."
_DRIFT = ("‖θ − θ₀‖ ÷ ‖θ₀‖ of each layer's weight at the end, against the model as given; mean over seeds. A layer "
          "with 0 did not move.")
_OTHERS = " Thin grey lines without a name are the other methods."
_MATRICES = ("Percent of the test examples that are right, mean over seeds: a row after each task learned (given: the "
             "model before any), a column for each task tested. Pale is 0, deep blue is 100.")
_CURVES = ("Test figures of every strength: mean over seeds with its 95 % bootstrap interval, which is too short with "
           "few seeds. Horizontal lines are what has no strength. A ring marks the strength that is reported.")
_FRONTS = ("The plane once more, with every strength of each method, joined in their order and noted at both ends: "
           "means over seeds. To be read along the axes: which line keeps more where both adapt equally well?")
_REPAIRED = ("From the bar (the model that knew the source) to the cross (the same at the end), and where each repair "
             "of the last model takes it, which trains nothing below the head. Means over seeds.")
_RANKS = ("Average ranks over the sequences, the best left. A thick bar joins methods that are not told apart: their "
          "average ranks differ by no more than the critical difference, drawn above the axis.")


def page(
    results: Iterable[Result], path: str | os.PathLike[str], *, publication: Publication | None = None,
    similarities: Similarities | None = None,
) -> Path:
    """Write one HTML file that needs no network, no script and no other file.

    It holds, for each experiment among the results: a headline, the retention–adaptation plane, all figures and the
    paired comparison in tables, accuracy over steps, the accuracy matrices, drift by layer, the share of the norm
    statistics where the model has some, cost and provenance. A method that was run at several strengths stands in all
    of these by the one that validation data chooses; curves over the strengths, the front between retention and
    adaptation, its hypervolume, and what methods keep at matched adaptation follow. Results of several sequences begin
    with average ranks. The same results give the same bytes.

    Args:
        results: finished runs, in any order.
        path: of the file to write; an existing one is replaced.
        publication: what somebody else published of the same experiments; the page then begins with its figures
            beside ours and the verdict on each.
        similarities: what :func:`similarities` measured; the page then sets it beside the forgetting.

    Returns:
        The path.

    Raises:
        ValueError: without results, or for two results of the same run.
        ModuleNotFoundError: without matplotlib; the extra ``report`` brings it.

    **Cost**: about a second an experiment of nine methods.
    """
    plots = drawing()
    found = [reported(experiment) for experiment in experiments(results)]
    ranked = ranking(found)
    with plots.look():
        parts = [_part(plots, experiment, f"e{number}") for number, experiment in enumerate(found, 1)]
        near = None if similarities is None else joined(plots, similarities)
        ranks = None if ranked is None else {
            **tables.ranks(ranked), "caption": _RANKS,
            "figure": Markup(plots.inline(plots.ranks(ranked), "ranks", "Average ranks over the sequences"))}
    title = "What was kept, what was learned: " + "; ".join(experiment.whole.title for experiment in found)
    beside = None if publication is None else reproduction(publication)
    text = render("page.html.jinja", title=title, parts=parts, ranks=ranks, beside=beside, similarity=near)
    path = Path(path)
    path.write_text(text, encoding="utf-8")
    return path


def save_picture(results: Iterable[Result], path: str | os.PathLike[str], *, figure: str = "plane") -> Path:
    """Write one figure of the page as a picture of its own, for a README.

    Args:
        results: finished runs, of one experiment but for ``"ranks"``.
        path: ends in ``.svg`` or ``.png``.
        figure: ``"plane"`` (retention against adaptation), ``"strengths"`` (curves over the strength), ``"fronts"``
            (the plane with every strength), ``"lost"`` (what each repair brings back), ``"moved"`` (drift by layer,
            three ways) or ``"ranks"`` (the critical-difference diagram over sequences).

    Returns:
        The path.

    Raises:
        ValueError: for another ending or figure, several experiments, or results that the figure cannot show.
        ModuleNotFoundError: without matplotlib; the extra ``report`` brings it.

    **Cost**: about half a second.
    """
    plots = drawing()
    if figure not in PICTURES:
        raise ValueError(nearest("figure", figure, PICTURES))
    found = [reported(experiment) for experiment in experiments(results)]
    if len(found) > 1 and figure != "ranks":
        raise ValueError(f"one picture shows one experiment, these results hold {len(found)}: "
                         + "; ".join(experiment.whole.title for experiment in found))
    with plots.look():
        drawn = _picture(plots, found, figure)
        if drawn is None:
            raise ValueError(f"there is nothing to draw: {PICTURES[figure]}")
        plots.write(drawn, path)
    return Path(path)


def figure_svg(results: Iterable[Result]) -> list[tuple[str, str]]:
    """The figures of the page, each as (name, SVG text), for pages of one's own."""
    plots = drawing()
    with plots.look():
        return [figure for number, experiment in enumerate(experiments(results), 1)
                for figure in _figures(plots, reported(experiment), f"e{number}")[0].items()]


def _picture(plots: ModuleType, found: list[Reported], figure: str) -> Any:
    """One figure; None where the results do not allow it."""
    if figure == "ranks":
        ranked = ranking(found)
        return None if ranked is None else plots.ranks(ranked)
    if figure == "fronts":
        return plots.fronts(found[0], fronts(found[0].sweeps))
    if figure == "lost":
        return _repaired(plots, found[0])
    if figure == "moved":
        layers = _moved(plots, found[0])
        return layers and layers[0]
    return (plots.retention_adaptation if figure == "plane" else plots.over_strength)(found[0])


def _part(plots: ModuleType, found: Reported, prefix: str) -> dict[str, Any]:
    """Everything the template shows of one experiment."""
    rows, experiment = found.rows, found.experiment
    joint = {group.label for group in experiment.groups if group.joint}
    figures, scaled = _figures(plots, found, prefix)
    drawn = {name.removeprefix(f"{prefix}-"): Markup(svg) for name, svg in figures.items()}
    others = _OTHERS if len(plots.leading(found)) < len(rows) else ""
    return {
        "title": experiment.title,
        "headline": headline(rows, joint, found.leaks),
        "facts": tables.facts(found),
        "plane": drawn.get("plane"),
        "plane_caption": _PLANE + (_NUMBERED if others else ""),
        "summary": tables.summary(rows, joint),
        "paired": tables.paired(rows),
        "middle": tables.middle(found),
        "sweeps": _swept(found, drawn) if found.sweeps else None,
        "steps": drawn.get("steps"),
        "steps_caption": _STEPS + (_SCALED if scaled else "") + others,
        "matrices": [svg for name, svg in drawn.items() if name.startswith("matrix-")],
        "matrices_note": _MATRICES,
        "drift": drawn.get("drift"),
        "drift_caption": _DRIFT + others,
        "lost": _lost(plots, found, prefix),
        "unknown": UNKNOWN,
        "statistics": tables.norm_statistics(experiment, rows),
        "cost": tables.cost(experiment, rows),
        "provenance": provenance(found.whole),
    }


def _lost(plots: ModuleType, found: Reported, prefix: str) -> dict[str, Any] | None:
    """What the diagnoses say; None where no run holds one."""
    methods = losses(found)
    if not methods:
        return None
    told = table(methods)
    told["note"] += left_out(found, methods)
    layers = _moved(plots, found)
    return {
        "verdicts": verdicts(methods), "table": told, "repaired_caption": _REPAIRED,
        "repaired": Markup(plots.inline(_repaired(plots, found), f"{prefix}-repaired", "What comes back, by method")),
        "layers": layers and Markup(plots.inline(layers[0], f"{prefix}-layers", "Drift by layer, three ways")),
        "layers_caption": LAYERS + (f" {layers[1]} more moved less." if layers and layers[1] else ""),
    }


def _repaired(plots: ModuleType, found: Reported) -> Any:
    """What each repair brings back, a row a method; None without diagnoses."""
    rows = [plots.Repaired(one.label, {
        "before": one.mean("accuracy", "before"), "after": one.mean("accuracy", "after"),
        **{name: sum(values) / len(values) for name, values in one.repairs().items()}}) for one in losses(found)]
    return plots.repaired(rows) if rows else None


def _moved(plots: ModuleType, found: Reported) -> Any:
    """Drift by layer and how many layers are left out; None without diagnoses."""
    looks, shown = plots.looks_of(found), plots.leading(found)
    return plots.over_layers_of([plots.Moved(one.label, looks[one.label], one.layers()) for one in losses(found)
                                 if one.label in shown])


def _swept(found: Reported, drawn: dict[str, Markup]) -> dict[str, Any]:
    """What the template shows of methods at several strengths."""
    measured = fronts(found.sweeps)
    return {
        "chosen": swept.chosen(found), "every": swept.every(found),
        "curves": drawn["strengths"], "curves_caption": _CURVES,
        "fronts": drawn.get("fronts"), "fronts_caption": _FRONTS, "volumes": swept.fronts(measured),
        "matched": swept.at_matched(measured),
    }


def _figures(plots: ModuleType, found: Reported, prefix: str) -> tuple[dict[str, str], bool]:
    """The figures that the results allow, name -> SVG, and whether steps were drawn to scale."""
    made: dict[str, str] = {}

    def add(name: str, title: str, figure: Any) -> None:
        if figure is not None:
            made[f"{prefix}-{name}"] = plots.inline(figure, f"{prefix}-{name}", title)

    add("plane", "Retention against adaptation, one marker or path a method", plots.retention_adaptation(found))
    add("strengths", "Average accuracy, retention and adaptation over strengths", plots.over_strength(found))
    add("fronts", "Retention against adaptation at every strength", plots.fronts(found, fronts(found.sweeps)))
    steps, scaled = plots.while_learning(found) or (None, False)
    add("steps", "Source and target accuracy over steps", steps)
    for number, (label, figure) in enumerate(plots.matrices(found), 1):
        add(f"matrix-{number}", f"Accuracy matrix of {label}", figure)
    add("drift", "Relative change of each layer", plots.layer_drift(found))
    return made, scaled
