"""Whether what was measured before training tells what was forgotten by it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

_LEAST = 3
_PATTERNS = math.factorial(8)  # up to eight pairs every order is tried, of more that many random ones


class Correlation(NamedTuple):
    """A rank correlation, and how far to trust it.

    Args:
        coefficient: Spearman's ρ in [−1, 1].
        p_value: two-sided, in (0, 1].
        pairs: how many pairs of tasks it stands on.

    Example:
        >>> Correlation(0.9, 0.08, 5).pairs
        5
    """

    coefficient: float
    p_value: float
    pairs: int


def correlations(measures: Sequence[Mapping[str, float]], forgetting: Sequence[float]) -> dict[str, Correlation]:
    """Spearman's rank correlation of each measure with the forgetting that was measured afterwards.

    ρ is the correlation of the ranks, equal values sharing the mean of theirs. A distance that foretells forgetting has
    a positive ρ, a measure of closeness a negative one. The p-value is that of a permutation test: with few pairs the
    usual approximation claims too much (three pairs in order are no evidence: p = 1/3, not 0).

    Args:
        measures: one mapping from name to figure for each pair of tasks, as :func:`measure` gives them. A measure
            stands on the pairs that have it. Infinite figures have ranks too.
        forgetting: how much of the source was then forgotten, one number a pair, in the same order.

    Returns:
        Name -> (ρ, p, pairs), in the order in which names first occur. Nothing is corrected for how many measures are
        tried: of twenty, one reaches p = 0.05 by chance.

    Raises:
        ValueError: for fewer than 3 pairs, as many mappings as numbers are not given, not a number among them, or
            values that are all equal, which have no order.

    **Cost**: up to 40 320 orders of the pairs a measure.

    **Reference**: Spearman 1904, The Proof and Measurement of Association between Two Things;
    ``scipy.stats.permutation_test``. **Differs**: beyond 8 pairs random orders, seed 0, where 8 and fewer are exact.

    Example:
        >>> found = correlations([{"mmd": 0.1}, {"mmd": 0.2}, {"mmd": 0.7}, {"mmd": 0.9}], [0.00, 0.05, 0.04, 0.30])
        >>> round(found["mmd"].coefficient, 10), round(found["mmd"].p_value, 4), found["mmd"].pairs
        (0.8, 0.3333, 4)
    """
    if len(measures) != len(forgetting):
        raise ValueError(f"there are {len(measures)} mappings of measures and {len(forgetting)} numbers of forgetting: "
                         "one of each a pair of tasks, in the same order")
    if len(measures) < _LEAST:
        raise ValueError(f"a rank correlation needs at least {_LEAST} pairs of tasks, got {len(measures)}: measure "
                         "more pairs")
    names = dict.fromkeys(name for figures in measures for name in figures)
    return {name: _correlation(name, [(figures[name], lost) for figures, lost in zip(measures, forgetting, strict=True)
                                      if name in figures]) for name in names}


def _correlation(name: str, pairs: list[tuple[float, float]]) -> Correlation:
    """One measure's."""
    from scipy import stats  # here, because it takes as long to import as torch does

    if len(pairs) < _LEAST:
        raise ValueError(f"{name!r} was measured for {len(pairs)} pairs of tasks, a rank correlation needs at least "
                         f"{_LEAST}: measure it for more, or leave it out")
    values = np.asarray(pairs, dtype=np.float64).T
    for what, row in zip((f"the figures of {name!r}", "the numbers of forgetting beside it"), values, strict=True):
        if np.isnan(row).any():
            raise ValueError(f"{int(np.isnan(row).sum())} of {what} are not numbers; leave these pairs out")
        if (row == row[0]).all():
            raise ValueError(f"{what} are all {row[0]:g}, so they have no order to compare; leave {name!r} out, or "
                             "measure more pairs")
    ranks = stats.rankdata(values, axis=1)
    ranks -= ranks.mean(axis=1, keepdims=True)
    ranks /= np.linalg.norm(ranks, axis=1, keepdims=True)

    def statistic(order: Any, axis: int = -1) -> Any:
        return np.sum(order * ranks[1], axis=axis)

    test = stats.permutation_test((ranks[0],), statistic, permutation_type="pairings", vectorized=True,
                                  n_resamples=_PATTERNS, batch=2000, random_state=np.random.default_rng(0))
    return Correlation(float(np.clip(test.statistic, -1, 1)), float(test.pvalue), len(pairs))
