"""The accuracy matrix as a heat map with its numbers in the cells."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from forgetting.report.plots.drawing import figure

_PALE, _DEEP = np.array([0.945, 0.957, 0.973]), np.array([0.035, 0.235, 0.455])
NUMBERED = 12


def matrix(values: np.ndarray, title: str) -> Figure:
    """One method's matrix: a row after each task learned, a column a task tested; percent in each cell.

    Beyond twelve tasks the cells carry colour only.
    """
    rows, columns = values.shape
    cell = 0.5 if columns <= 5 else 0.4 if columns <= NUMBERED else 0.22
    drawn, (axes,) = figure(max(2.6, 1.35 + cell * columns), 1.0 + max(0.7 * cell, 0.16) * rows)
    axes.grid(False)
    axes.set(xlim=(0, columns), ylim=(rows, 0))
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            shade = _PALE + (_DEEP - _PALE) * float(np.clip(value, 0.0, 1.0))
            axes.fill([column, column + 1, column + 1, column], [row, row, row + 1, row + 1], color=shade, linewidth=0)
            if columns <= NUMBERED:
                axes.text(column + 0.5, row + 0.53, f"{100 * value:.0f}", ha="center", va="center", fontsize=9,
                          color="#ffffff" if value > 0.62 else "#101418")
    every = 1 if columns <= NUMBERED else 5
    axes.set_xticks(np.arange(0, columns, every) + 0.5, [str(i + 1) for i in range(0, columns, every)])
    axes.set_yticks(np.arange(0, rows, every) + 0.5, ["given" if i == 0 else str(i) for i in range(0, rows, every)])
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_title(title)
    axes.set_xlabel("tested on task")
    axes.set_ylabel("after task")
    return drawn
