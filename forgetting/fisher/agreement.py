"""Whether two computations of the same numbers agree, up to what rounding explains."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from forgetting.parameters import Parameters

_TOLERANCE = 1e-3
_TOLERANCE_HALF = 5e-2
_SUMS = {torch.float64: 1e-6, torch.float32: 0.05}  # at an activation's kink, float32 may fall either way
_SUMS_HALF = 0.5
_NEGLIGIBLE = 1e-4  # of the whole: a key's bias, whose true importance is 0


class Mixes(ValueError):
    """The outputs of an example depend on the examples beside it."""


def independent(outputs: Tensor, again: Tensor) -> None:
    """Raise where the same examples gave other outputs in other company."""
    if outputs.shape != again.shape:
        raise ValueError(f"the same examples gave outputs of the shape {tuple(outputs.shape)} and, in other company, "
                         f"{tuple(again.shape)}: inputs and targets must hold the same number of examples in their "
                         "first dimension")
    scale = largest(outputs)
    worst = float((outputs - again).abs_().max()) if outputs.numel() else 0.0
    if worst > tolerance(outputs) * scale:
        raise Mixes(f"by {worst:.3g} (largest output {scale:.3g})")


def tolerance(tensor: Tensor) -> float:
    """How far two computations of one number may differ, relative to the largest."""
    if not tensor.is_floating_point():
        return 0.0
    return _TOLERANCE_HALF if tensor.dtype in (torch.float16, torch.bfloat16) else _TOLERANCE


def largest(tensor: Tensor) -> float:
    """The largest absolute value."""
    return float(torch.stack(torch.aminmax(tensor)).double().abs().max()) if tensor.numel() else 0.0


def equal(one: Tensor, other: Tensor, allowed: float) -> bool:
    """Whether no elements are further apart than allowed."""
    return not one.numel() or float((one.double() - other.double()).abs_().max()) <= allowed


def disagreeing(apart: Mapping[str, float], norms: Mapping[str, float], parameters: Parameters) -> set[str]:
    """The names whose sums differ by more than rounding explains, in the precision of their parameters.

    Args:
        apart: name -> the norm of the difference of two computations.
        norms: name -> the norm of the sums themselves, or what it is at least, for the names to judge.
    """
    whole = sum(norm**2 for norm in norms.values()) ** 0.5
    wrong = set()
    for name, norm in norms.items():
        allowed = _SUMS.get(parameters[name].dtype, _SUMS_HALF)
        negligible = _NEGLIGIBLE * whole if allowed > _SUMS[torch.float64] else 0.0
        if not apart[name] <= allowed * max(norm, negligible) + 1e-12 * whole:
            wrong.add(name)
    return wrong
