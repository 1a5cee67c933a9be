"""A multiple of the identity a parameter: the matrix of L2-SP."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from forgetting.curvature.base import Curvature, Factor, factor, proximal_share
from forgetting.parameters import Parameters


class Identity(Curvature):
    """F = diag(s_name), one scale a parameter tensor.

    Args:
        scales: name -> scale ≥ 0.

    **Cost**: one number a parameter tensor.

    Example:
        >>> float(Identity({"w": 2.0}).quadratic({"w": torch.tensor([1.0, 2.0])}))
        10.0
    """

    def __init__(self, scales: Mapping[str, float]) -> None:
        for name, scale in scales.items():
            if not 0 <= scale < float("inf"):
                raise ValueError(f"the scale of {name!r} is {scale}; it must be finite and at least 0")
        self._scales = {name: float(scale) for name, scale in scales.items()}

    @property
    def scales(self) -> dict[str, float]:
        """A copy of name -> scale."""
        return dict(self._scales)

    def names(self) -> tuple[str, ...]:
        return tuple(self._scales)

    def elementwise(self) -> Mapping[str, Any]:
        return self._scales

    def quadratic(self, delta: Mapping[str, Tensor]) -> Tensor:
        terms = [delta[name].square().sum() * scale for name, scale in self._scales.items()]
        return torch.stack(terms).sum() if terms else torch.zeros(())

    def product(self, delta: Mapping[str, Tensor]) -> Parameters:
        if not self._scales:
            return {}
        products = torch._foreach_mul([delta[name] for name in self._scales], list(self._scales.values()))
        return dict(zip(self._scales, products, strict=True))

    def retract(self, delta: Mapping[str, Tensor], a: Mapping[str, Factor] | Factor) -> Parameters:
        return {
            name: proximal_share(scale, factor(a, name), delta[name])
            for name, scale in self._scales.items()
        }

    def blend(self, other: Curvature, decay: float) -> Identity:
        if not isinstance(other, Identity):
            raise TypeError(f"an Identity blends with another Identity, not with {type(other).__name__}")
        names = dict.fromkeys((*self._scales, *other._scales))
        return Identity({n: decay * self._scales.get(n, 0.0) + other._scales.get(n, 0.0) for n in names})

    def scaled(self, c: float) -> Identity:
        return Identity({name: c * scale for name, scale in self._scales.items()})

    def trace(self) -> float:
        raise TypeError("an Identity stores no shapes, so it has no trace; use largest()")

    def largest(self) -> float:
        return max(self._scales.values(), default=0.0)

    def peaks(self) -> dict[tuple[str, ...], float]:
        return {(name,): scale for name, scale in self._scales.items()}

    def diagonal(self) -> Parameters:
        return {name: torch.tensor(scale, dtype=torch.float64) for name, scale in self._scales.items()}

    def to(self, device: Mapping[str, torch.device] | torch.device | str) -> Identity:
        return self

    def restricted(self, names: Collection[str]) -> Identity:
        return Identity({name: self._scales[name] for name in names})

    def state_dict(self) -> dict[str, Any]:
        return {"curvature": "Identity", "scales": dict(self._scales)}

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> Identity:
        return cls(state["scales"])
