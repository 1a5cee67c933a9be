"""When an estimate has seen enough: the standard error of its trace, from how its batches differ."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

BATCHES = 16


class Precision:
    r"""Follows tr F over the batches, and says when its relative standard error is small enough.

    .. math:: \hat R = \frac{\sum_b T_b}{\sum_b n_b},\qquad
              \hat\sigma^2 = \frac{1}{B-1}\sum_b n_b\Big(\frac{T_b}{n_b}-\hat R\Big)^2,\qquad
              \mathrm{se}(\hat R) = \frac{\hat\sigma}{\sqrt{\sum_b n_b}}

    T_b is what batch b of n_b examples adds to the summed trace. For examples drawn independently σ̂² is unbiased for
    the variance of one example's trace, whatever the sizes of the batches; batches of examples that belong together
    (sorted data) make it too large or too small. Stopping at the first moment where se ≤ wanted·R̂ looks at the data:
    an interval of ±1.96 se then covers the truth in somewhat less than 95 of 100 estimates, and R̂ is a little too
    small on average, because few large traces so far mean a small se too. Both vanish as ``wanted`` does, and the least
    number of batches bounds them. Nothing is said about single importances, which are less certain than their sum.

    Args:
        wanted: the relative standard error to reach, > 0; ``None`` to follow without ever saying enough.
        batches: how many must have been seen before anything is said.
    """

    def __init__(self, wanted: float | None, batches: int = BATCHES) -> None:
        if wanted is not None and not 0 < wanted < math.inf:
            raise ValueError(f"precision is a relative standard error above 0, such as 0.05, got {wanted}")
        self.wanted = wanted
        self.batches = batches
        self.reached = False
        self._seen, self._count, self._mean, self._spread, self._total = 0, 0, 0.0, 0.0, 0.0

    def update(self, total: float, examples: int) -> bool:
        """Take in the summed trace after one more batch of ``examples`` examples; whether that is enough."""
        value, self._total = (total - self._total) / examples, total
        self._seen, self._count = self._seen + 1, self._count + examples
        gap = value - self._mean
        self._mean += gap * examples / self._count
        self._spread += examples * gap * (value - self._mean)
        error = self.standard_error
        if self.wanted is None or error is None or self._seen < self.batches:
            return False
        self.reached = error <= self.wanted * self._mean
        return self.reached

    def finish(self) -> None:
        """Warn where the data ended before enough was seen."""
        if self.wanted is None or self.reached:
            return
        few = f" ({self._seen} batches; fewer than {self.batches} say too little)" if self._seen < self.batches else ""
        warnings.warn(f"the data ended after {self._count} examples before the trace was known to the asked precision "
                      f"{self.wanted:g}: its standard error is {self.standard_error}{few}", stacklevel=4)

    @property
    def standard_error(self) -> float | None:
        """Of the mean trace; ``None`` before the second batch."""
        if self._seen < 2:
            return None
        return math.sqrt(self._spread / (self._seen - 1) / self._count)


def following(wanted: float | None, process_group: Any, labels: str) -> Precision | None:
    """What watches an estimate's precision, where one is asked for, or where random signs make it less certain."""
    if wanted is None:
        return Precision(None) if labels == "signed" and process_group is None else None
    if process_group is not None:
        raise ValueError("precision= would have every rank wait for the others after each batch; with process_group=, "
                         "say how many examples a rank takes with examples=")
    return Precision(wanted)


def trace(sums: Mapping[str, Tensor]) -> float:
    """Σ over all the sums, in float64."""
    return float(torch.stack([value.sum(dtype=torch.float64) for value in sums.values()]).sum())
