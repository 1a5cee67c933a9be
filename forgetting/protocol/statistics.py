"""Comparing methods over seeds: paired, two-sided, corrected for how many methods are compared."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

__all__ = ["Summary", "holm", "sign_flip", "summary", "wilcoxon"]

EXACT = 16  # up to this many differences every sign pattern is tried: 65536 of them
_ROUNDING = 1e-12


class Summary(NamedTuple):
    """What a table's cell shows.

    Args:
        mean: of the values.
        sem: its standard error; None for one value.
        n: how many values.

    Example:
        >>> Summary(0.5, None, 1).n
        1
    """

    mean: float
    sem: float | None
    n: int


def _differences(values: Iterable[float]) -> np.ndarray:
    """A float64 vector, checked."""
    vector = np.asarray(list(values), dtype=np.float64)
    if vector.ndim != 1 or not len(vector):
        raise ValueError("expected at least one number a seed, got none")
    if not np.isfinite(vector).all():
        raise ValueError(f"the numbers must be finite, got {vector.tolist()}")
    return vector


def summary(values: Iterable[float]) -> Summary:
    """Mean ± s / √n, s the sample's standard deviation (n − 1 in its denominator).

    Args:
        values: one number a seed.

    Raises:
        ValueError: without values, or where one is not finite.

    Example:
        >>> summary([1.0, 2.0, 3.0]).mean
        2.0
        >>> summary([1.0]).sem is None
        True
    """
    vector = _differences(values)
    n = len(vector)
    return Summary(float(vector.mean()), float(vector.std(ddof=1) / np.sqrt(n)) if n > 1 else None, n)


def sign_flip(differences: Iterable[float], *, draws: int = 100_000, seed: int = 0) -> float:
    """The two-sided p-value of a paired sign-flip (permutation) test of the mean difference.

    p = share of the sign patterns s ∈ {−1, 1}ⁿ with |mean(s·d)| ≥ |mean(d)|. All 2ⁿ of them for n ≤ 16; above that
    ``draws`` random ones and the observed one, p = (1 + hits) / (1 + draws). Under the null hypothesis each
    difference is symmetric around 0. The smallest p is 2 / 2ⁿ: six pairs reach 0.05, one pair always gives 1.

    Args:
        differences: one a seed: a method's figure minus the other's, same seed.
        draws: random patterns where n > 16.
        seed: of the test's own generator.

    Returns:
        p in (0, 1]. A zero difference stays in and says nothing by either sign; equal means count as hits.

    Raises:
        ValueError: without differences, or where one is not finite.

    **Cost**: n·2ⁿ or n·draws additions. **Reference**: Fisher 1935, The Design of Experiments, §21; Phipson & Smyth
    2010 for the 1 + hits. **Differs**: nothing.

    Example:
        >>> sign_flip([1.0, 2.0, 3.0])
        0.25
    """
    vector = _differences(differences)
    n = len(vector)
    observed = abs(vector.sum()) - _ROUNDING * np.abs(vector).sum()  # equal sums may differ in their last bits
    if n <= EXACT:
        patterns = np.arange(2**n, dtype=np.uint32)[:, None] >> np.arange(n, dtype=np.uint32) & 1
        return float((np.abs((1.0 - 2.0 * patterns) @ vector) >= observed).mean())
    generator = np.random.default_rng(seed)
    hits = 0
    for start in range(0, draws, 10_000):
        signs = generator.integers(0, 2, size=(min(10_000, draws - start), n)) * 2.0 - 1.0
        hits += int((np.abs(signs @ vector) >= observed).sum())
    return (1 + hits) / (1 + draws)


def wilcoxon(differences: Iterable[float]) -> float:
    """The two-sided p-value of Wilcoxon's signed-rank test of paired differences.

    Args:
        differences: one a seed.

    Returns:
        p in (0, 1]. Zero differences (up to 1e-12) are left out (Wilcoxon's own way); without any other, p = 1. Exact
        for up to 16 others, with ties too (every sign pattern of the ranks); above that as scipy does it.

    Raises:
        ValueError: without differences, or where one is not finite.

    **Cost**: n log n. **Reference**: Wilcoxon 1945, Individual Comparisons by Ranking Methods. **Differs**: nothing.

    Example:
        >>> wilcoxon([1.0, 2.0, 3.0])
        0.25
    """
    from scipy import stats  # here, because it takes as long to import as torch does

    vector = _differences(differences)
    largest = np.abs(vector).max()
    if largest <= _ROUNDING:
        return 1.0
    vector = np.round(vector / largest, 9)  # equal differences of accuracies may differ in their last bits
    vector = vector[vector != 0]
    if len(vector) > EXACT:
        return float(stats.wilcoxon(vector).pvalue)
    return sign_flip(np.sign(vector) * stats.rankdata(np.abs(vector)))


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """p-values that hold for all comparisons together: p̃₍ᵢ₎ = max_{j≤i} min(1, (m − j + 1)·p₍ⱼ₎), sorted ascending.

    Args:
        p_values: name of the comparison -> p in [0, 1].

    Returns:
        Name -> corrected p, in the order given.

    Raises:
        ValueError: for a p outside [0, 1].

    **Reference**: Holm 1979, A Simple Sequentially Rejective Multiple Test Procedure. **Differs**: nothing.

    Example:
        >>> holm({"ewc": 0.01, "l2sp": 0.04, "freeze": 0.03})
        {'ewc': 0.03, 'l2sp': 0.06, 'freeze': 0.06}
    """
    for name, p in p_values.items():
        if not 0 <= p <= 1:
            raise ValueError(f"the p-value of {name!r} is {p}; it must lie in [0, 1]")
    corrected, floor = {}, 0.0
    for rank, name in enumerate(sorted(p_values, key=p_values.__getitem__)):
        floor = max(floor, min(1.0, (len(p_values) - rank) * p_values[name]))
        corrected[name] = floor
    return {name: corrected[name] for name in p_values}
