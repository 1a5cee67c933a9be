"""A comparison for a terminal."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from forgetting.diagnosis.comparison import Comparison
from forgetting.diagnosis.verdict import change, percent, points
from forgetting.protocol.statistics import Interval

_CLASSES, _MODULES = 8, 12  # rows


def table(found: Comparison) -> Group:
    """A comparison for a terminal: verdict, figures, flips, the most forgotten classes, what comes back, drift.

    Args:
        found: what :func:`~forgetting.diagnosis.compare` gave.

    Returns:
        A rich renderable: ``rich.print(table(found))``.

    **Cost**: none to speak of.

    Example:
        >>> from rich.console import Console
        >>> from torch import nn
        >>> from forgetting.diagnosis import compare
        >>> model = nn.Linear(2, 2)
        >>> found = compare(model, model, [model.weight.detach()])
        >>> Console(width=120).print(table(found).renderables[0])
        The new model answers as the old one on all 2 unlabelled examples.
    """
    parts: list[RenderableType] = [Text(found.verdict, style="bold"), _figures(found), _flips(found)]
    return Group(*parts, _classes(found), _recoveries(found), *_modules(found))


def _drawn(title: str, *heads: str) -> Table:
    """An empty table, its first column of text and the others of numbers."""
    drawn = Table(box=SIMPLE_HEAD, title=title, title_justify="left", title_style="bold", padding=(0, 1, 0, 0),
                  pad_edge=False)
    for place, head in enumerate(heads):
        drawn.add_column(head, justify="right" if place else "left", overflow="fold")
    return drawn


def _figures(found: Comparison) -> Table:
    """Both models' figures."""
    what = "labelled" if found.labelled else "unlabelled"
    accuracy = "accuracy" if found.labelled else "the old model's answer"
    drawn = _drawn(f"The source, {found.examples} {what} examples", "", "before", "after")
    rows = [(accuracy, found.before.accuracy, found.after.accuracy),
            ("mean confidence", found.before.confidence, found.after.confidence),
            ("expected calibration error", found.before.calibration_error, found.after.calibration_error)]
    for name, *values in rows:
        drawn.add_row(name, *("–" if value is None else percent(value) for value in values))
    losses = (found.before.negative_log_likelihood, found.after.negative_log_likelihood)
    drawn.add_row("negative log-likelihood, nats", *("–" if value is None else f"{value:.3f}" for value in losses))
    return drawn


def _flips(found: Comparison) -> Text:
    """The change of every example's answer."""
    said = []
    if found.labelled and found.difference is not None:
        said.append(f"Accuracy: {points(found.difference)}.")
    said.append(f"Same answer: {_interval(found.agreement)}.")
    if found.labelled:
        said.append(f"Right before, wrong after: {_interval(found.negative_flips)}.")
    if found.positive_flips is not None:
        said.append(f"Wrong before, right after: {_interval(found.positive_flips)}.")
    return Text("\n".join(said))


def _classes(found: Comparison) -> Table:
    """The classes that lost most."""
    drawn = _drawn("The most forgotten classes", "class", "examples", "before", "after", "drop")
    for each in found.classes[:_CLASSES]:
        drawn.add_row(str(each.label), str(each.examples), percent(each.before), percent(each.after),
                      percent(each.drop))
    return drawn


def _recoveries(found: Comparison) -> Table:
    """What each repair brings back."""
    drawn = _drawn("What comes back", "repair", "accuracy", "points, 95 % interval", "of the loss", "old model so")
    for each in found.recoveries:
        if each.accuracy is None:
            drawn.add_row(f"{each.name}: {each.note}", "–", "–", "–", "–")
            continue
        gain = "–" if each.gain is None else change(each.gain)
        drawn.add_row(each.name + (f" ({each.note})" if each.note else ""), percent(each.accuracy), gain,
                      "–" if each.share is None else percent(each.share, 0),
                      "–" if each.reference is None else percent(each.reference))
    return drawn


def _modules(found: Comparison) -> list[RenderableType]:
    """The modules that moved most in the Fisher norm."""
    shown = sorted(found.modules, key=lambda each: -each.fisher)[:_MODULES]
    title = "Drift by layer, the largest in the Fisher norm first"
    drawn = _drawn(title, "layer", "kind", "weights", "relative L2", "CKA", "Σ F Δ²", "share")
    for each in shown:
        drawn.add_row(each.name or "(itself)", each.kind, f"{each.weights:,}", f"{each.relative:.3f}",
                      "–" if each.cka is None else f"{each.cka:.3f}", f"{each.fisher:.3g}",
                      percent(each.fisher / found.fisher) if found.fisher else "–")
    left = len(found.modules) - len(shown)
    more = f" {left} more layers are in the JSON." if left else ""
    note = (f"Σ F Δ² over all weights: {found.fisher:.4g}, with {found.labels} labels; CKA 1: the same features up to "
            f"rotation and scale.{more}")
    return [drawn, Text(note, style="dim")]


def _interval(share: Interval) -> str:
    """A share with its interval."""
    return f"{percent(share.estimate)} (95 % interval {percent(share.low)} … {percent(share.high)})"
