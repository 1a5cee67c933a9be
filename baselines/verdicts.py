"""What was published beside what was measured here: one verdict a figure."""

from __future__ import annotations

import json
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from baselines.targets import Claim, Published, Target
from forgetting.protocol import metrics, statistics

FOLDER = Path(__file__).parent
MET, MISSED, OPEN = "✓", "✗", "–"


@dataclass(frozen=True)
class Measured:
    """A row's committed file.

    Args:
        kept: what the file holds.
    """

    kept: dict[str, Any]

    @classmethod
    def of(cls, baseline: str, row: str) -> Measured | None:
        """The row's file; None where it has not been run."""
        path = FOLDER / baseline.replace("-", "_") / "results" / f"{row}.json"
        return cls(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else None

    def figures(self, strength: float | None) -> dict[int, float]:
        """Seed -> the row's figure in percent, at a strength of its grid."""
        figure = getattr(metrics, self.kept["figure"])
        return {run["seed"]: 100 * figure(np.array(run["accuracy"])) for run in self.kept["runs"]
                if run["strength"] == strength}

    @cached_property
    def best(self) -> dict[int, float]:
        """Seed -> figure, at the strength that was chosen."""
        return self.figures(self.kept["strength"])

    @cached_property
    def summary(self) -> statistics.Summary:
        """Mean and standard error over the seeds."""
        return statistics.summary(self.best.values())

    @property
    def whole(self) -> bool:
        """Whether all seeds were run, and none diverged."""
        return len(self.best) == self.kept["seeds"]

    @cached_property
    def seconds(self) -> float:
        """Of a run at the chosen strength, the mean."""
        return float(np.mean([run["seconds_training"] + run["seconds_consolidation"] for run in self.kept["runs"]
                              if run["strength"] == self.kept["strength"]]))

    def curve(self) -> list[tuple[float, list[float]]]:
        """Strength -> figures of the seeds on which the whole grid was run, ascending."""
        strengths = sorted({run["strength"] for run in self.kept["runs"]})
        common = set.intersection(*(set(self.figures(strength)) for strength in strengths))
        return [(strength, [self.figures(strength)[seed] for seed in sorted(common)]) for strength in strengths]


@dataclass(frozen=True)
class Verdict:
    """A published figure or statement, ours, and whether they agree.

    Args:
        sign: ✓, ✗, or – where the figure is not verified in its source or not measured here.
        gap: ours minus the published one, in points; None where there is none.
        about: what the criterion was, or what was found.
        missed: the cause, where it is known that ours differs.
    """

    sign: str
    gap: float | None
    about: str
    missed: str | None


def of_target(published: Published, target: Target, measured: Measured | None) -> Verdict:
    """Whether a row's mean is where it was published."""
    if measured is None:
        return Verdict(OPEN, None, "not run here", target.missed)
    if target.mean is None:
        return Verdict(OPEN, None, "beside", target.missed)
    found = measured.summary
    gap = found.mean - target.mean
    if target.welch:
        if found.sem is None or target.spread is None:
            return Verdict(OPEN, gap, "needs two seeds and a published standard error", target.missed)
        interval = statistics.welch(found.mean, found.sem, found.n, target.mean, target.spread, published.n)
        met = interval.holds(0)
        about = f"Welch interval of the difference {interval.low:+.2f} … {interval.high:+.2f}"
    else:
        deviations = float(target.deviations or 0) * float(target.spread or 0)
        allowed = deviations if target.within is None else target.within
        met, about = abs(gap) <= allowed, f"within ± {allowed:.2f}"
    if not measured.whole:
        return Verdict(OPEN, gap, f"{found.n} of {measured.kept['seeds']} seeds (not run, or diverged)", target.missed)
    return Verdict((MET if met else MISSED) if target.verified else OPEN, gap, about, target.missed)


def of_claim(claim: Claim, measured: Sequence[Measured | None]) -> Verdict:
    """Whether a statement holds here."""
    known = [each for each in measured if each is not None]
    if len(known) < len(measured):
        return Verdict(OPEN, None, "not run here", claim.missed)
    if not all(each.whole for each in known):
        return Verdict(OPEN, None, "not all seeds were run", claim.missed)
    met, about = _CLAIMS[claim.kind](claim, known)
    return Verdict(MET if met else MISSED, None, about, claim.missed)


def _paired(first: Measured, second: Measured) -> np.ndarray:
    """The differences of the seeds that both have."""
    return np.array([first.best[seed] - second.best[seed] for seed in sorted(set(first.best) & set(second.best))])


def _interval(differences: np.ndarray) -> statistics.Interval:
    """The 95 % interval of a paired mean difference, by Student's t."""
    from scipy import stats

    if len(differences) < 2:
        raise ValueError(f"two rows of a statement have {len(differences)} seeds in common: run both on all seeds")
    if not differences.std():
        return statistics.Interval(*[float(differences[0])] * 3, 0.95)
    low, high = stats.t.interval(0.95, len(differences) - 1, differences.mean(), stats.sem(differences))
    return statistics.Interval(float(differences.mean()), float(low), float(high), 0.95)


def _above(claim: Claim, measured: Sequence[Measured]) -> tuple[bool, str]:
    found = _interval(_paired(*measured))
    return found.low > claim.by, f"paired difference {found.low:+.2f} … {found.high:+.2f}"


def _alike(claim: Claim, measured: Sequence[Measured]) -> tuple[bool, str]:
    found, within = _interval(_paired(*measured)), float(claim.within or 0)
    inside = max(-found.low, found.high) <= within
    return inside, f"paired difference {found.low:+.3f} … {found.high:+.3f}, alike within ± {within:g}"


def _crossing(claim: Claim, measured: Sequence[Measured]) -> tuple[bool, str]:
    found = _crossed(claim, measured[0])
    if found.log10 is None:
        return False, str(found.reason)
    met = abs(found.log10 - float(claim.log10 or 0)) <= float(claim.within or 0)
    return met, f"at {found.log10:.2f}, within ± {claim.within:g}; seeds a point: {len(measured[0].curve()[0][1])}"


def _crossings(claim: Claim, measured: Sequence[Measured]) -> tuple[bool, str]:
    found = [_crossed(claim, each) for each in measured]
    places = [each.log10 for each in found if each.log10 is not None]
    said = ", ".join(f"{row} {'never' if each.log10 is None else f'{each.log10:.2f}'}"
                     for row, each in zip(claim.rows, found, strict=True))
    return len(places) == len(found) and all(map(operator.lt, places, places[1:])), said


def _crossed(claim: Claim, measured: Measured) -> statistics.Crossing:
    """Where a row's curve reaches the level."""
    curve = measured.curve()
    return statistics.crossing([strength for strength, _ in curve], [float(np.mean(each)) for _, each in curve],
                               float(claim.level or 0))


_CLAIMS = {"above": _above, "alike": _alike, "crossing": _crossing, "crossings": _crossings}
