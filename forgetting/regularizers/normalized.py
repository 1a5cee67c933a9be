"""One strength for all importances: each task's matrix is divided by one number of its own before it is added."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Mapping

import torch
from torch import Tensor

from forgetting.curvature import Curvature
from forgetting.curvature.shards import gathered
from forgetting.regularizers.consolidated import at_least_float32

NORMALIZATIONS = {"none": "nothing", "mean": "mean importance", "trace": "trace"}
INERT = 1e-12  # even a strength of a million makes of it less than a millionth
CERTAIN = "The model may be certain of every example (its gradients vanish), or the data may not be what it learned"
_SMALLEST = torch.finfo(torch.float32).tiny
_log = logging.getLogger(__name__)


def normalized(found: Curvature, divisor: float) -> Curvature:
    """The matrix over its divisor, in float32 or better; itself, where that is 1."""
    return found if divisor == 1 else at_least_float32(found).scaled(1 / divisor)


def divisor_of(diagonal: Mapping[str, Tensor], live: Mapping[str, Tensor], normalize: str) -> float:
    """The mean of the importances over the covered weights, or their sum; 1 where there is nothing to divide by."""
    if normalize == "none":
        return 1.0
    # One number may stand for all weights of a parameter.
    total = math.fsum(float(gathered(value.sum(dtype=torch.float64))) * (live[name].numel() / value.numel())
                      for name, value in diagonal.items() if value.numel())
    if normalize == "mean":
        total /= max(1, sum(live[name].numel() for name in diagonal))
    return total if total >= _SMALLEST else 1.0


def announce(kind: str, task: int, normalize: str, divisor: float, strength: float) -> None:
    """Log what a strength amounts to without the division."""
    if normalize != "none":
        _log.info("%s divides the matrix of task %d by its %s, %.4g: strength %g acts as %.4g does on the matrix as it "
                  "is", kind, task, NORMALIZATIONS[normalize], divisor, strength, strength / divisor)


def warn_where_inert(kind: str, diagonal: Mapping[str, Tensor], normalize: str, because: str = CERTAIN) -> None:
    """Warn where every importance is about 0."""
    largest = max((float(gathered(value.max())) for value in diagonal.values() if value.numel()), default=0.0)
    if largest >= INERT:
        return
    says = f"{kind} is inert: its largest importance is {largest:.1e}, so no weight will be held"
    if normalize != "none" and largest >= _SMALLEST:
        says = (f"{kind} has next to nothing to hold weights by: its largest importance is {largest:.1e}, of which "
                f"normalize={normalize!r} makes a pull like any other; it may follow rounding errors")
    warnings.warn(f"{says}. {because}", stacklevel=3)
