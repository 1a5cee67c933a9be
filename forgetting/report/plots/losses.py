"""What was lost and where: repairs, layers, classes, calibration. Told apart without colour, axes with units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from forgetting.report.plots.drawing import GRID, INK, MUTED, PAPER, SERIES, Style, figure, in_percent

LAYERS = 24  # of more layers those that moved most are drawn
PLAIN = Style(SERIES[0], "o", "solid")
_BLUE = SERIES[0]
_KINDS = {
    "before": {"marker": "|", "markersize": 17, "markeredgewidth": 2.4, "color": INK},
    "after": {"marker": "X", "markersize": 8.5, "color": INK},
    "old norm statistics": {"marker": "s", "markersize": 10, "markerfacecolor": "none", "color": SERIES[1],
                            "markeredgewidth": 1.6},
    "new norm statistics": {"marker": "D", "markersize": 6.5, "markerfacecolor": PAPER, "color": SERIES[2],
                            "markeredgewidth": 1.6},
    "head refitted": {"marker": "^", "markersize": 8.5, "color": _BLUE},
}
_WORDS = {"old norm statistics": "old norm statistics put back", "new norm statistics": "norm statistics re-estimated"}
_PANELS: dict[str, tuple[str, str]] = {
    "relative": ("Weights", "‖Δθ‖ ÷ ‖θ‖ (%)"),
    "cka": ("Features", "CKA, 1: the same features"),
    "fisher": ("Weights in the Fisher norm", "Σ F Δθ²"),
}


@dataclass(frozen=True)
class Repaired:
    """One method's source accuracy: ``"before"``, ``"after"`` and after each repair that was measured."""

    label: str
    accuracy: Mapping[str, float]


@dataclass(frozen=True)
class Moved:
    """How far one method's layers moved: layer -> ``relative``, ``cka``, ``fisher``, each a number or None."""

    label: str
    style: Style
    layers: Mapping[str, Mapping[str, float | None]]


def repaired(rows: Sequence[Repaired]) -> Figure:
    """A row a method: from where to where the source fell, and where each repair takes it."""
    drawn, (axes,) = figure(9.6, 1.5 + 0.42 * len(rows))
    for place, row in enumerate(rows):
        ends = row.accuracy["before"], row.accuracy["after"]
        axes.plot(ends, [place, place], color=MUTED, linewidth=1.2, zorder=1.5)
        for name, value in row.accuracy.items():
            axes.plot([value], [place], linestyle="none", zorder=3 if name == "after" else 2.5, **_KINDS[name])
    named = [name for name in _KINDS if any(name in row.accuracy for row in rows)]
    for name in named:
        axes.plot([], [], linestyle="none", label=_WORDS.get(name, name), **_KINDS[name])
    _rows(axes, [row.label for row in rows])
    axes.set_xlabel("accuracy on the source (%)")
    in_percent(axes.xaxis)
    drawn.legend(loc="outside upper left", ncols=len(named), frameon=False, fontsize=9, handletextpad=0.3,
                 columnspacing=1.2)
    return drawn


def repair_bars(accuracy: Mapping[str, float], references: Mapping[str, float], what: str) -> Figure:
    """A bar for the source before, after and after each repair, with its number; ticks mark the old model's own."""
    drawn, (axes,) = figure(9.6, 0.9 + 0.46 * len(accuracy))
    for place, (name, value) in enumerate(accuracy.items()):
        dark = {"before": MUTED, "after": INK}
        axes.barh(place, value, height=0.62, color=dark.get(name, PAPER), edgecolor=INK, linewidth=1.1,
                  hatch=None if name in dark else "////")
        reach = max(value, references.get(name, 0.0), accuracy["before"])
        axes.annotate(f"{100 * value:.1f} %", (reach, place), (6, 0), textcoords="offset points", va="center",
                      fontsize=9.5)
        if name in references:
            axes.plot([references[name]] * 2, [place - 0.4, place + 0.4], color=SERIES[1], linewidth=2.2)
    axes.axvline(accuracy["before"], color=MUTED, linewidth=1.0, linestyle=(0, (4, 3)), zorder=0.9)
    _rows(axes, [_WORDS.get(name, name) for name in accuracy])
    axes.set_xlim(0, 1.12)
    axes.set_xticks(np.linspace(0, 1, 6))
    axes.set_xlabel(f"{what} (%)")
    in_percent(axes.xaxis)
    return drawn


def over_layers_of(series: Sequence[Moved]) -> tuple[Figure, int] | None:
    """Three panels that share their layers, in the network's order from the top; and how many layers are left out.

    One series has bars, several have a marker each. None without layers.
    """
    names = list(dict.fromkeys(name for one in series for name in one.layers))
    shown = _largest(series, names)
    if not shown:
        return None
    drawn, panels = figure(10.4, 1.5 + 0.3 * len(shown), 3, sharey=True)
    for axes, (kind, (title, unit)) in zip(panels, _PANELS.items(), strict=True):
        axes.set_title(title)
        axes.set_xlabel(unit)
        _panel(axes, series, shown, kind)
    _rows(panels[0], [_short(name) or "(itself)" for name in shown])
    if len(series) > 1:
        handles, labels = panels[0].get_legend_handles_labels()
        drawn.legend(handles, labels, loc="outside upper left", ncols=6, frameon=False, fontsize=9)
    return drawn, len(names) - len(shown)


def forgotten(classes: Sequence[Mapping[str, Any]]) -> Figure:
    """A line a class, from its accuracy before to that after, the most forgotten on top."""
    drawn, (axes,) = figure(5.4, 1.3 + 0.34 * len(classes))
    for place, one in enumerate(classes):
        axes.plot([one["before"], one["after"]], [place, place], color=MUTED, linewidth=1.4)
    places = range(len(classes))
    for kind in ("before", "after"):
        axes.plot([one[kind] for one in classes], places, linestyle="none", label=kind, **_KINDS[kind])
    _rows(axes, [f"class {one['label']} ({one['examples']})" for one in classes])
    axes.set_xlim(-0.04, 1.04)
    axes.set_xlabel("accuracy (%)")
    in_percent(axes.xaxis)
    drawn.legend(*axes.get_legend_handles_labels(), loc="outside upper left", ncols=2, frameon=False, fontsize=9)
    return drawn


def reliability(before: Sequence[Mapping[str, float]], after: Sequence[Mapping[str, float]]) -> Figure:
    """Accuracy over confidence, a point a bin, its area by its examples; on the diagonal is well calibrated."""
    drawn, (axes,) = figure(4.6, 4.5)
    axes.plot([0, 1], [0, 1], color=GRID, linewidth=1.4, zorder=1)
    axes.annotate("surer than right", (0.97, 0.06), ha="right", fontsize=8.5, color=MUTED)
    for label, bins, colour, marker, dashes in (("before", before, MUTED, "o", "dashed"),
                                                ("after", after, INK, "X", "solid")):
        at = [one["confidence"] for one in bins], [one["accuracy"] for one in bins]
        total = sum(one["examples"] for one in bins) or 1
        axes.plot(*at, color=colour, linestyle=dashes, linewidth=1.1, marker=marker, markersize=4, label=label)
        axes.scatter(*at, s=[20 + 400 * one["examples"] / total for one in bins], color=colour, marker=marker,
                     alpha=0.75)
    axes.set(xlim=(0, 1.03), ylim=(-0.03, 1.05), xlabel="confidence (%)", ylabel="right (%)")
    in_percent(axes.xaxis, axes.yaxis)
    drawn.legend(*axes.get_legend_handles_labels(), loc="outside upper left", ncols=2, frameon=False, fontsize=9)
    return drawn


def _panel(axes: Axes, series: Sequence[Moved], shown: Sequence[str], kind: str) -> None:
    """One quantity over the layers."""
    for one in series:
        points = [(value, place) for place, name in enumerate(shown)
                  if (value := one.layers.get(name, {}).get(kind)) is not None]
        if not points:
            continue
        values, places = zip(*points, strict=True)
        if len(series) == 1:
            axes.barh(places, values, height=0.6, color=_BLUE, edgecolor=INK, linewidth=0.8)
        else:
            axes.plot(values, places, color=one.style.colour, linestyle=one.style.dashes, linewidth=0.9,
                      marker=one.style.marker, markersize=6, label=one.label, alpha=0.9)
    _scaled(axes, kind, [value for one in series for name in shown
                         if (value := one.layers.get(name, {}).get(kind)) is not None])


def _scaled(axes: Axes, kind: str, values: Sequence[float]) -> None:
    """The axis that suits a quantity."""
    if kind == "cka":
        axes.set_xlim(0, 1.04)
    elif kind == "relative":
        in_percent(axes.xaxis)
        axes.set_xlim(left=0)
        axes.xaxis.set_major_locator(MaxNLocator(4))
    else:
        positive = [value for value in values if value > 0]
        if positive and max(positive) > 50 * min(positive):
            axes.set_xscale("log")
            axes.set_xlim(min(positive) / 2, 2 * max(positive))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.xaxis.set_minor_formatter(NullFormatter())
        else:
            axes.set_xlim(left=0)
            axes.xaxis.set_major_locator(MaxNLocator(4))


def _largest(series: Sequence[Moved], names: list[str]) -> list[str]:
    """The layers that are drawn, in the network's order."""
    if len(names) <= LAYERS:
        return names

    def size(name: str) -> float:
        return max(one.layers.get(name, {}).get("fisher") or 0.0 for one in series)

    kept = set(sorted(names, key=size, reverse=True)[:LAYERS])
    return [name for name in names if name in kept]


def _rows(axes: Axes, labels: Sequence[str]) -> None:
    """A row a label, the first on top."""
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.tick_params(axis="y", labelcolor=INK, length=0)
    axes.grid(visible=False, axis="y")


def _short(name: str) -> str:
    return name if len(name) <= 26 else "…" + name[-25:]
