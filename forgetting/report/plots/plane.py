"""The retention–adaptation plane: what a method kept against what it learned, one marker or path a method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from forgetting.report.plots.drawing import MUTED, PAPER, Style, figure, in_percent, settle
from forgetting.report.plots.placement import place, segments


@dataclass(frozen=True)
class Stop:
    """One point of the plane: means over seeds as fractions, standard errors (``None``: one seed), what it is."""

    adaptation: float
    retention: float
    adaptation_error: float | None = None
    retention_error: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Path:
    """One method in the plane: runs (marker and error bars) and, where it has one, a curve of small dots.

    ``label`` stands at the first run; the other runs and the dots carry their notes. A line joins the curve, or,
    without a curve, the runs in their order.
    """

    label: str
    style: Style
    runs: tuple[Stop, ...]
    curve: tuple[Stop, ...] = ()


def plane(paths: Sequence[Path], *, horizontal: str, size: tuple[float, float] = (8.2, 5.6)) -> Figure:
    """Draw the plane and name every path beside it."""
    drawn, (axes,) = figure(*size)
    axes.set_xlabel(horizontal)
    axes.set_ylabel("retention: source accuracy kept (%)")
    in_percent(axes.xaxis, axes.yaxis)
    for path in paths:
        _draw(axes, path)
    _frame(axes, paths)
    settle(drawn)
    _name(axes, paths)
    return drawn


def _draw(axes: Axes, path: Path) -> None:
    style = path.style
    along = _coordinates(path.curve or path.runs)
    if len(along) > 1:
        axes.plot(*along.T, color=style.colour, linestyle=style.dashes, linewidth=1.3, zorder=2)
    if path.curve:
        axes.plot(*along.T, ".", color=style.colour, markersize=5, zorder=3)
    for stop in path.runs:
        axes.errorbar(
            stop.adaptation, stop.retention, xerr=stop.adaptation_error or None, yerr=stop.retention_error or None,
            color=style.colour, elinewidth=1.1, capsize=2.5, capthick=1.1, zorder=4, marker=style.marker,
            markersize=12 if style.marker == "*" else 8, markeredgecolor=PAPER, markeredgewidth=0.8,
        )


def _coordinates(stops: Sequence[Stop]) -> np.ndarray:
    return np.array([(stop.adaptation, stop.retention) for stop in stops], dtype=float).reshape(-1, 2)


def _frame(axes: Axes, paths: Sequence[Path]) -> None:
    """Room around what is drawn, and lines at 100 %."""
    points = np.concatenate([_coordinates((*path.runs, *path.curve)) for path in paths])
    for axis, low, high in zip("xy", points.min(0), points.max(0), strict=True):
        room = max(0.13 * (high - low), 0.015)
        axes.set(**{f"{axis}lim": (low - room, max(high + 1.4 * room, min(1.02, high + 0.1)))})
    for line in (axes.axvline, axes.axhline):
        line(1.0, color=MUTED, linewidth=0.8, linestyle=(0, (2, 2)), zorder=1)


def _name(axes: Axes, paths: Sequence[Path]) -> None:
    """Write each path's name, and its notes, where they cover nothing."""
    texts, anchors = [], []
    for path in paths:
        for number, stop in enumerate((*path.runs, *path.curve)):
            words, size = (path.label, 10.0) if number == 0 else (stop.note, 8.0)
            if words:
                texts.append(axes.text(0, 0, words, color=path.style.colour, fontsize=size, ha="center", va="center",
                                       zorder=6))
                anchors.append((stop.adaptation, stop.retention))
    sizes = np.array([[box.width, box.height] for box in (text.get_window_extent() for text in texts)])
    pixels = axes.transData.transform(np.array(anchors))
    area = axes.get_window_extent()
    bounds = (area.x0 + 2, area.y0 + 3, area.x1 + 8, area.y1 + 2)
    centres = place(sizes, pixels, _obstacles(axes, paths), bounds)
    back = axes.transData.inverted()
    for text, centre, anchor, size in zip(texts, centres, pixels, sizes, strict=True):
        x, y = back.transform(centre)
        text.set_position((x, y))
        nearest = np.clip(anchor, centre - size / 2, centre + size / 2)
        if np.hypot(*(nearest - anchor)) > 20.0:
            ends = back.transform(np.array([anchor, nearest]))
            axes.plot(*ends.T, color=text.get_color(), linewidth=0.7, alpha=0.7, zorder=1.5)


def _obstacles(axes: Axes, paths: Sequence[Path]) -> np.ndarray:
    """What labels must not cover, in pixels: markers, error bars, the lines of paths and those at 100 %."""
    to_pixels = axes.transData.transform
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    boxes = [segments(to_pixels(ends)) for ends in ([(1.0, bottom), (1.0, top)], [(left, 1.0), (right, 1.0)])]
    for path in paths:
        boxes.append(segments(to_pixels(_coordinates(path.curve or path.runs))))
        for number, stop in enumerate((*path.runs, *path.curve)):
            half = 8.0 if number < len(path.runs) else 3.0
            centre = np.array([stop.adaptation, stop.retention])
            point = to_pixels(centre)
            boxes.append(np.array([[*(point - half), *(point + half)]]))
            arms = ((stop.adaptation_error or 0.0, 0.0), (0.0, stop.retention_error or 0.0))
            boxes += [segments(to_pixels(np.array([centre - arm, centre + arm]))) for arm in arms]
    return np.concatenate(boxes)
