"""Similarity before training against forgetting after it: a panel a measure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from forgetting.report.plots.drawing import MARKERS, SERIES, canvas, in_percent
from forgetting.similarity import DIRECTIONS

_ACROSS = 4


def scatter(pairs: Sequence[Any], titles: Mapping[str, str], correlated: Mapping[str, Any]) -> Figure:
    """A point a pair of tasks in each panel; a shape and colour a sequence.

    Args:
        pairs: each with ``sequence``, ``figures`` (measure -> number) and ``lost``.
        titles: measure -> its name as people write it.
        correlated: measure -> its ``coefficient`` and ``pairs``; a measure that is not in it has none.
    """
    names = [name for name in DIRECTIONS if any(name in pair.figures for pair in pairs)]
    down = -(-len(names) // _ACROSS)
    drawn = canvas(11.2, 0.6 + 2.7 * down)
    panels = drawn.subplots(down, _ACROSS, squeeze=False, sharey=True).flatten()
    sequences = list(dict.fromkeys(pair.sequence for pair in pairs))
    for axes, name in zip(panels, names, strict=False):
        for place, sequence in enumerate(sequences):
            points = [(pair.figures[name], pair.lost) for pair in pairs
                      if pair.sequence == sequence and math.isfinite(pair.figures.get(name, math.nan))]
            if points:
                axes.plot(*zip(*points, strict=True), linestyle="none", marker=MARKERS[place % len(MARKERS)],
                          color=SERIES[place % len(SERIES)], markersize=6.5, alpha=0.85)
        told = correlated.get(name)
        known = f"\nρ = {told.coefficient:+.2f} (n = {told.pairs} pairs)".replace("-", "−") if told else ""
        axes.set_title(f"{titles[name]}{known}")
        axes.set_xlabel(f"high: {DIRECTIONS[name]}")
        axes.xaxis.set_major_locator(MaxNLocator(4))
        in_percent(axes.yaxis)
    for row in range(down):
        panels[row * _ACROSS].set_ylabel("source accuracy lost (points)")
    for axes in panels[len(names):]:
        axes.remove()
    for place, sequence in enumerate(sequences):
        panels[0].plot([], [], linestyle="none", marker=MARKERS[place % len(MARKERS)],
                       color=SERIES[place % len(SERIES)], label=sequence)
    drawn.legend(*panels[0].get_legend_handles_labels(), loc="outside upper left", ncols=3, frameon=False, fontsize=9)
    return drawn
