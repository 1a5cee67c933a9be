"""What every matrix over named parameters can do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor

from forgetting.parameters import Parameters


class Curvature(ABC):
    """A frozen positive semi-definite matrix F over named parameters.

    Args and results named ``delta`` are mappings from parameter name to a tensor of the parameter's shape; a
    ``delta`` must hold every name of the matrix, and names that the matrix lacks are ignored.
    """

    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """The parameters that the matrix covers."""

    @abstractmethod
    def quadratic(self, delta: Mapping[str, Tensor]) -> Tensor:
        """δᵀFδ, a scalar that autograd can differentiate by ``delta``."""

    @abstractmethod
    def product(self, delta: Mapping[str, Tensor]) -> Parameters:
        """Fδ."""

    @abstractmethod
    def retract(self, delta: Mapping[str, Tensor], a: Mapping[str, float] | float) -> Parameters:
        """aF(I + aF)⁻¹δ, in float32 or better: how far a proximal step moves back towards the anchor.

        Finite for every a ≥ 0, and exactly 0 where F is 0. ``a`` is one number, or one a parameter.
        """

    @abstractmethod
    def blend(self, other: Curvature, decay: float) -> Curvature:
        """decay·self + other; a name that only one of them knows counts as 0 in the other."""

    @abstractmethod
    def scaled(self, c: float) -> Curvature:
        """c·F, c ≥ 0."""

    @abstractmethod
    def trace(self) -> float:
        """The sum of the diagonal."""

    @abstractmethod
    def largest(self) -> float:
        """The largest eigenvalue (an upper bound is not enough: a step size is judged by it)."""

    @abstractmethod
    def diagonal(self) -> Parameters:
        """The diagonal, a tensor (or a 0-d tensor that stands for a constant one) a parameter."""

    @abstractmethod
    def to(self, device: torch.device | str) -> Curvature:
        """The same matrix on another device."""

    def shrink(self, delta: Mapping[str, Tensor], a: Mapping[str, float] | float) -> Parameters:
        """(I + aF)⁻¹δ."""
        back = self.retract(delta, a)
        return {name: delta[name] - back[name] for name in self.names()}


def factor(a: Mapping[str, float] | float, name: str) -> float:
    """The proximal factor of one parameter."""
    return a[name] if isinstance(a, Mapping) else a


def proximal_share(importance: Tensor, a: float, delta: Tensor) -> Tensor:
    """a·F/(1 + a·F)·δ, elementwise, in float32 or better; a·F is capped at the largest finite number."""
    dtype = torch.promote_types(delta.dtype, torch.float32)
    product = (importance.to(dtype) * a).clamp(max=torch.finfo(dtype).max)
    return product / (1 + product) * delta.to(dtype)
