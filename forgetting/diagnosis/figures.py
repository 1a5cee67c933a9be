"""Accuracy, flips, classes, calibration: figures of two models' answers, with intervals over the examples."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from forgetting.diagnosis.comparison import Bin, ClassDrop, Figures
from forgetting.protocol.statistics import Interval

BINS = 15
CONFIDENCE = 0.95
DRAWS = 9999


def figures(logits: Tensor, targets: Tensor, labelled: bool) -> Figures:
    """One model's figures; of labels that are only another model's answers no calibration."""
    logs = torch.log_softmax(logits, 1)
    confidence, answers = logs.max(1)
    confidence, right = confidence.exp(), answers == targets
    likelihood = -float(logs.gather(1, targets[:, None]).mean()) if labelled else None
    error = calibration_error(confidence, right) if labelled else None
    bins = reliability(confidence, right) if labelled else ()
    return Figures(int(right.sum()) / len(right), float(confidence.mean()), error, likelihood, bins)


def calibration_error(confidence: Tensor, right: Tensor) -> float:
    """Σ_m |B_m|/n · |accuracy(B_m) − confidence(B_m)| over 15 bins of equal width, ((m − 1)/15, m/15].

    Guo et al. 2017 (arXiv 1706.04599), equation 3. A sure model fills few of these bins, and the figure then says
    little about the others: Nixon et al. 2019 (arXiv 1904.01685) discuss bins of equal mass instead.
    """
    places = _places(confidence)
    gaps = torch.zeros(BINS, dtype=torch.float64).index_add_(0, places, right.double() - confidence.double())
    return float(gaps.abs().sum() / len(confidence))


def reliability(confidence: Tensor, right: Tensor) -> tuple[Bin, ...]:
    """The bins of :func:`calibration_error` that hold examples, by rising confidence."""
    places = _places(confidence)
    return tuple(Bin(int(own.sum()), float(confidence[own].mean()), float(right[own].double().mean()))
                 for own in (places == place for place in range(BINS)) if own.any())


def _places(confidence: Tensor) -> Tensor:
    """Which bin each example is in."""
    return (confidence * BINS).ceil().clamp(1, BINS).long() - 1


def share(hits: Tensor) -> Interval:
    """A share of the examples with Wilson's score interval, which has a width at 0 and 1 too (Wilson 1927)."""
    from scipy import stats  # here, because it takes as long to import as torch does

    count, total = int(hits.sum()), len(hits)
    found = stats.binomtest(count, total).proportion_ci(CONFIDENCE, method="wilson")
    return Interval(count / total, float(found.low), float(found.high), CONFIDENCE)


def difference(after: Tensor, before: Tensor, seed: int) -> Interval | None:
    """The paired bootstrap interval (BCa, Efron 1987) of a difference of accuracies; None for a single example.

    An example adds −1, 0 or 1, so that a resample of n examples is one draw of three counts: the interval of
    ``statistics.mean_interval`` without 9999 · n numbers.
    """
    from scipy import special

    values = np.array([-1.0, 0.0, 1.0])
    changes = after.long() - before.long()
    counts = np.array([int((changes == value).sum()) for value in (-1, 0, 1)])
    n = int(counts.sum())
    if n < 2:
        return None
    estimate = float(counts @ values / n)
    if counts.max() == n:
        return Interval(estimate, estimate, estimate, CONFIDENCE)
    drawn = np.random.default_rng(seed).multinomial(n, counts / n, DRAWS) @ values / n
    bias = special.ndtri(((drawn < estimate - 1e-12).mean() + (drawn <= estimate + 1e-12).mean()) / 2)
    spread = values - estimate
    acceleration = (counts @ spread**3) / (6 * (counts @ spread**2) ** 1.5)
    ends = bias + special.ndtri([(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    low, high = np.quantile(drawn, special.ndtr(bias + ends / (1 - acceleration * ends)))
    return Interval(estimate, float(low), float(high), CONFIDENCE)


def drops(targets: Tensor, before: Tensor, after: Tensor, numbered: Tensor) -> tuple[ClassDrop, ...]:
    """Every class that occurs, the most forgotten first; of equals the one with more examples.

    Args:
        targets: places of the labels.
        before, after: whether each answer was right.
        numbered: a place's number among all outputs.
    """
    examples = torch.bincount(targets, minlength=len(numbered)).tolist()
    kept = [torch.bincount(targets, weights=right.double(), minlength=len(numbered)).tolist()
            for right in (before, after)]
    found = [ClassDrop(int(numbered[place]), count, kept[0][place] / count, kept[1][place] / count)
             for place, count in enumerate(examples) if count]
    return tuple(sorted(found, key=lambda each: (-each.drop, -each.examples, each.label)))
