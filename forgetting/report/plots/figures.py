"""The figures of one experiment, drawn."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from forgetting.report import series
from forgetting.report.groups import Experiment, Group
from forgetting.report.plots.drawing import Style, styles
from forgetting.report.plots.lines import Line, Panel, over_layers, over_steps
from forgetting.report.plots.matrix import matrix
from forgetting.report.plots.plane import Path, Stop, plane

RELATIVE = "adaptation: accuracy on new tasks when learned, relative to plain fine-tuning (%)"
ABSOLUTE = "accuracy on new tasks when learned (%)"


def retention_adaptation(experiment: Experiment, rows: list[dict[str, Any]]) -> Figure | None:
    """The plane; without plain fine-tuning the horizontal axis is plain accuracy. None where nothing can be placed."""
    relative = any(row["adaptation"] and row["adaptation"]["n"] for row in rows)
    stops = {row["method"]: _stop(row, _group(experiment, row), relative) for row in rows}
    looks, paths = _styles(rows), []
    for name in dict.fromkeys(row["name"] for row in rows):
        groups = _in_order([_group(experiment, row) for row in rows if row["name"] == name])
        found = [(group, stop) for group in groups if (stop := stops[group.label]) is not None]
        if found:
            first = found[0][0]
            curve = tuple(_curve(first)) if relative and len(found) == 1 else ()
            paths.append(Path(first.label, looks[first.label], tuple(stop for _, stop in found), curve))
    return plane(paths, horizontal=RELATIVE if relative else ABSOLUTE) if paths else None


def while_learning(experiment: Experiment, rows: list[dict[str, Any]]) -> tuple[Figure, bool] | None:
    """Source and target accuracy over steps, and whether some method's steps were drawn to scale."""
    timeline = series.Timeline(experiment)
    if len(timeline.tasks) < 2:
        return None
    looks = _styles(rows)
    groups = [_group(experiment, row) for row in rows]
    panels = []
    for title, curve_of in (("source", timeline.source), ("new tasks so far, mean", timeline.targets)):
        curves = [(group, curve_of(group)) for group in groups]
        lines = [Line(group.label, looks[group.label], curve.positions, curve.mean, curve.error)
                 for group, curve in curves if curve is not None]
        panels.append(Panel(f"Accuracy on the {title}", tuple(lines)))
    return over_steps(panels, timeline.boundaries), timeline.scaled


def matrices(experiment: Experiment, rows: list[dict[str, Any]]) -> Iterator[tuple[str, Figure]]:
    """One heat map a method, with its label."""
    for row in rows:
        yield row["method"], matrix(series.mean_matrix(_group(experiment, row)), row["method"])


def layer_drift(experiment: Experiment, rows: list[dict[str, Any]]) -> Figure | None:
    """The relative change of each layer a method; None where no run recorded it."""
    looks = _styles(rows)
    found = {row["method"]: series.drift(_group(experiment, row)) for row in rows}
    names = list(dict.fromkeys(layer for drifts in found.values() for layer in drifts))
    if not names:
        return None
    lines = []
    for label, drifts in found.items():
        at = np.array([i for i, name in enumerate(names) if name in drifts])
        values = np.array([drifts[names[i]] for i in at])
        if len(at):
            lines.append(Line(label, looks[label], at, values, np.zeros(len(at))))
    return over_layers(Panel("", tuple(lines)), names)


def _group(experiment: Experiment, row: dict[str, Any]) -> Group:
    return next(group for group in experiment.groups if group.label == row["method"])


def _styles(rows: list[dict[str, Any]]) -> dict[str, Style]:
    return styles([row["method"] for row in rows], {row["method"]: row["name"] for row in rows})


def _stop(row: dict[str, Any], group: Group, relative: bool) -> Stop | None:
    """A method's place in the plane; None where a coordinate is missing."""
    horizontal = row["adaptation"] if relative else _plain_accuracy(group)
    vertical = row["retention"]
    if not horizontal or horizontal["mean"] is None or vertical["mean"] is None:
        return None
    note = ", ".join(f"{value:g}" if isinstance(value, float) else str(value) for value in group.variant.values())
    return Stop(horizontal["mean"], vertical["mean"], horizontal["sem"], vertical["sem"], note)


def _plain_accuracy(group: Group) -> dict[str, Any]:
    """Mean accuracy on the tasks after the source when learned, over seeds."""
    return series.summary(float(np.diagonal(run.accuracy[1:])[1:].mean()) for run in group.runs.values()
                          if len(run.tasks) > 1)


def _in_order(groups: list[Group]) -> list[Group]:
    """Groups of one name along the setting in which they differ, where that is one number."""
    values = [tuple(group.variant.values()) for group in groups]
    if all(len(value) == 1 and isinstance(value[0], int | float) for value in values):
        return [group for _, group in sorted(zip(values, groups, strict=True), key=lambda pair: pair[0])]
    return groups


def _curve(group: Group) -> Iterator[Stop]:
    """WiSE-FT's path, its two ends noted."""
    points = series.interpolation(group)
    for number, point in enumerate(points):
        end = number in (0, len(points) - 1)
        yield Stop(point["adaptation"], point["retention"], note=f"{point['amount']:g}" if end else "")
