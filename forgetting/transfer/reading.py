"""What the runs say: accuracies, paired differences and their verdict, labels saved, time to an accuracy."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from forgetting.protocol import statistics
from forgetting.transfer.arms import FINETUNE, SCRATCH
from forgetting.transfer.runs import Run

LEVEL = 0.95


class Estimate(NamedTuple):
    """A mean over seeds with Student's 95 % interval.

    Args:
        mean: over seeds.
        low, high: the interval's ends; None for one seed.
        n: how many seeds.

    Example:
        >>> Estimate(0.5, None, None, 1).n
        1
    """

    mean: float
    low: float | None
    high: float | None
    n: int


class Difference(NamedTuple):
    """One arm's accuracy less another's, paired by seed, with Student's 95 % interval.

    Args:
        arm, other: their names.
        share: of the labels.
        estimate: of arm − other.

    Example:
        >>> Difference("finetune", "scratch", 0.1, Estimate(-0.2, -0.3, -0.1, 5)).verdict
        'negative transfer'
    """

    arm: str
    other: str
    share: float
    estimate: Estimate

    @property
    def verdict(self) -> str:
        """In words: of a pretrained arm against scratch whether transfer pays; else which arm is better."""
        _, low, high, n = self.estimate
        if low is None or high is None or low <= 0 <= high or low == high:  # equal by rounding tells of no spread
            return f"not decided at {n} seed{'' if n == 1 else 's'}"
        if self.other == SCRATCH:
            return "transfer pays" if low > 0 else "negative transfer"
        return f"{self.arm if low > 0 else self.other} is better"


class Saved(NamedTuple):
    """How many of the labels the other arm needs to be as accurate.

    Args:
        labels: that the arm had.
        needed: how many let the other's curve reach that accuracy, interpolated on the logarithm; None where it does
            not within the shares measured, or lies above it already at the smallest.
        reason: why there is none; None where there is one.

    Example:
        >>> round(Saved(10, 50.0, None).factor)
        5
    """

    labels: int
    needed: float | None
    reason: str | None

    @property
    def factor(self) -> float | None:
        """How many times as many labels the other arm needs; below 1, fewer."""
        return None if self.needed is None else self.needed / self.labels


class Time(NamedTuple):
    """How long an arm takes to an accuracy on validation data.

    Args:
        steps: of the optimizer, the median over seeds; None where half the seeds or more do not reach it.
        seconds: of training alone, likewise.
        reached: how many seeds reach it.
        n: how many seeds.

    Example:
        >>> Time(None, None, 0, 3).reached
        0
    """

    steps: float | None
    seconds: float | None
    reached: int
    n: int


def accuracy(runs: Iterable[Run], arm: str, share: float) -> Estimate:
    """Mean test accuracy of an arm at a share: mean ± t₀.₉₇₅ s/√n over n seeds.

    Args:
        runs: all there are.
        arm: its name.
        share: of the labels.

    Raises:
        ValueError: where there is no such run.

    **Cost**: arithmetic on a few numbers.

    Example:
        >>> accuracy([Run("scratch", 1.0, 9, seed, 0.1, 0.5, ((0, 0.1),), 1.0) for seed in range(2)], "scratch", 1.0)
        Estimate(mean=0.5, low=0.5, high=0.5, n=2)
    """
    return estimated([run.accuracy for run in _of(runs, arm, share).values()])


def difference(runs: Iterable[Run], share: float, arm: str = FINETUNE, other: str = SCRATCH) -> Difference:
    """One arm's test accuracy less another's at the same share, paired by seed: the same labels in the same order.

    Args:
        runs: all there are.
        share: of the labels.
        arm, other: names of arms.

    Raises:
        ValueError: where the two arms have not the same seeds.

    **Cost**: arithmetic on a few numbers.

    Example:
        >>> runs = [Run(arm, 1.0, 9, seed, 0.1, value, ((0, 0.1),), 1.0) for seed in range(3)
        ...         for arm, value in (("finetune", 0.5 + 0.01 * seed), ("scratch", 0.8))]
        >>> difference(runs, 1.0).verdict
        'negative transfer'
    """
    runs = list(runs)
    ours, theirs = _of(runs, arm, share), _of(runs, other, share)
    if set(ours) != set(theirs):
        raise ValueError(f"a paired difference takes the same seeds: {arm} has {sorted(ours)}, {other} "
                         f"{sorted(theirs)}; finish the runs")
    return Difference(arm, other, share, estimated([ours[seed].accuracy - theirs[seed].accuracy for seed in ours]))


def labels_saved(runs: Iterable[Run], share: float, arm: str = FINETUNE, other: str = SCRATCH) -> Saved:
    """How many labels make the other arm as accurate as this one is at ``share``, on means over seeds.

    Between two numbers measured, accuracy is taken as linear in their logarithm.

    Args:
        runs: all there are; the other arm at two shares or more.
        share: of the labels that the arm has.
        arm, other: names of arms.

    Raises:
        ValueError: where runs are missing.

    **Cost**: arithmetic on a few numbers.

    Example:
        >>> points = (("finetune", 0.01, 0.5), ("scratch", 0.01, 0.2), ("scratch", 0.1, 0.4), ("scratch", 1.0, 0.6))
        >>> runs = [Run(arm, share, int(1000 * share), 0, 0.1, value, ((0, 0.1),), 1.0) for arm, share, value in points]
        >>> round(labels_saved(runs, 0.01).needed)
        316
    """
    runs = list(runs)
    level = accuracy(runs, arm, share).mean
    shares = sorted({run.share for run in runs if run.arm == other})
    if len(shares) < 2:
        raise ValueError(f"labels saved take a curve: {other} was measured at {shares}, expected two shares or more")
    figures = [accuracy(runs, other, some).mean for some in shares]
    own, *labels = (next(iter(_of(runs, name, some).values())).labels
                    for name, some in ((arm, share), *((other, some) for some in shares)))
    if figures[0] > level:
        return Saved(own, None, f"{other} is above it already at {100 * shares[0]:.3g} %, the least measured")
    found = statistics.crossing(labels, figures, level).log10
    if found is None:
        return Saved(own, None, f"not reached by {other} with {100 * shares[-1]:.3g} %")
    return Saved(own, 10**found, None)


def time_to(runs: Iterable[Run], level: float, arm: str, share: float) -> Time:
    """Steps and seconds until accuracy on validation data is first measured at a level or above.

    As exact as measurements are dense. Seconds are the run's training seconds · steps to the level / all steps.

    Args:
        runs: all there are.
        level: accuracy in [0, 1]; fix it before looking.
        arm: its name.
        share: of the labels.

    Raises:
        ValueError: where there is no such run.

    **Cost**: arithmetic on a few numbers.

    Example:
        >>> run = Run("scratch", 1.0, 9, 0, 0.1, 0.7, ((0, 0.1), (50, 0.6), (100, 0.7)), 4.0)
        >>> time_to([run], 0.6, "scratch", 1.0)
        Time(steps=50.0, seconds=2.0, reached=1, n=1)
    """
    found = list(_of(runs, arm, share).values())
    steps = [first(run.curve, level) for run in found]
    seconds = [step and (math.inf if step == math.inf else run.seconds * step / run.steps)
               for run, step in zip(found, steps, strict=True)]
    return Time(_median(steps), _median(seconds), sum(map(math.isfinite, steps)), len(found))


def first(curve: Sequence[tuple[int, float]], level: float) -> float:
    """The first measured step at a level or above; infinite where there is none."""
    return next((step for step, value in curve if value >= level), math.inf)


def _median(values: Sequence[float]) -> float | None:
    """The median, where it is finite: the upper one of two, so that half reaching is not reaching."""
    middle = sorted(values)[len(values) // 2]
    return float(np.median(values)) if math.isfinite(middle) else None  # then both middle ones are finite


def _of(runs: Iterable[Run], arm: str, share: float) -> dict[int, Run]:
    """Seed -> run of one arm and share."""
    found = {run.seed: run for run in runs if (run.arm, run.share) == (arm, share)}
    if not found:
        raise ValueError(f"there is no run of {arm!r} with a share of {share}; measure it first")
    return dict(sorted(found.items()))


def estimated(values: Sequence[float]) -> Estimate:
    """The mean of values, one a seed, and its interval."""
    from scipy import stats  # here, because it takes as long to import as torch does

    mean, error, n = statistics.summary(values)
    if error is None:
        return Estimate(mean, None, None, n)
    reach = float(stats.t.ppf((1 + LEVEL) / 2, n - 1)) * error
    return Estimate(mean, mean - reach, mean + reach, n)
