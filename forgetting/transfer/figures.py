"""The comparison drawn: accuracy over labels, accuracy while learning. Needs the extra ``report``."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from forgetting.report.plots.drawing import DASHES, INK, MUTED, SERIES, Style, figure, in_percent
from forgetting.transfer.arms import FINETUNE, PROBE, SCRATCH
from forgetting.transfer.reading import Estimate, accuracy, estimated
from forgetting.transfer.study import Study

LOOKS = {FINETUNE: Style(INK, "o", DASHES[0]), SCRATCH: Style(SERIES[1], "s", DASHES[1]),
         PROBE: Style(SERIES[0], "^", DASHES[2])}
PANELS = 3


def over_labels(study: Study) -> Figure:
    """Test accuracy over the logarithm of the labels' number: a line an arm, Student's 95 % band (cut off at 0 and 1).

    Args:
        study: what was measured. Draw and write it within ``forgetting.report.plots.look()``.

    **Cost**: seconds.
    """
    drawn, (axes,) = figure(6.4, 4.0)
    shares = study.shares
    numbers = [_labels(study, share) for share in shares]
    for arm in LOOKS:
        _line(axes, arm, numbers, [accuracy(study.runs, arm, share) for share in shares])
    axes.set_xscale("log")
    axes.set_xticks(numbers, [f"{100 * share:g} %\n{number}" for share, number in zip(shares, numbers, strict=True)])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("share of the labels, and their number")
    axes.set_ylabel("test accuracy (%)")
    axes.set_title(f"Accuracy after {study.budget.steps} steps")
    in_percent(axes.yaxis)
    axes.legend(frameon=False, handlelength=3.5)
    return drawn


def over_steps(study: Study, level: float | None = None) -> Figure:
    """Accuracy on validation data over optimizer steps: a panel a share (the least, a middle one, the largest).

    Args:
        study: what was measured. Draw and write it within ``forgetting.report.plots.look()``.
        level: an accuracy that is marked.

    **Cost**: seconds.
    """
    shares = study.shares
    shown = shares if len(shares) <= PANELS else (shares[0], shares[len(shares) // 2], shares[-1])
    drawn, panels = figure(3.7 * len(shown), 3.7, len(shown), sharey=True)
    for axes, share in zip(panels, shown, strict=True):
        for arm in LOOKS:
            curves = [dict(run.curve) for run in study.runs if (run.arm, run.share) == (arm, share)]
            steps = sorted(curves[0])
            _line(axes, arm, steps, [estimated([curve[step] for curve in curves]) for step in steps])
        if level is not None:
            axes.axhline(level, color=MUTED, linewidth=0.9, zorder=1)
        axes.set_title(f"{100 * share:g} % of the labels ({_labels(study, share)})")
        axes.set_xlabel("optimizer steps")
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    in_percent(panels[0].yaxis)
    panels[0].set_ylabel("validation accuracy (%)")
    panels[-1].legend(frameon=False, handlelength=3.5, loc="lower right")
    return drawn


def _line(axes: Axes, arm: str, places: Sequence[float], estimates: Sequence[Estimate]) -> None:
    """An arm's means, and its band where there are several seeds."""
    look = LOOKS[arm]
    axes.plot(places, [found.mean for found in estimates], color=look.colour, marker=look.marker, markersize=5.0,
              linestyle=look.dashes, linewidth=1.6, markevery=max(1, len(places) // 8), label=arm)
    bands = [(place, max(found.low, 0.0), min(found.high, 1.0))
             for place, found in zip(places, estimates, strict=True)
             if found.low is not None and found.high is not None]
    if bands:
        at, low, high = zip(*bands, strict=True)
        axes.fill_between(at, low, high, color=look.colour, alpha=0.14, linewidth=0)


def _labels(study: Study, share: float) -> int:
    return next(run.labels for run in study.runs if run.share == share)
