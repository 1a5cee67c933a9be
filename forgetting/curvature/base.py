"""What every matrix over named parameters can do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from forgetting.parameters import Parameters

Factor = float | Tensor  # a learning rate may be a tensor; nothing here waits for its value


class NotFinite(ValueError):
    """Numbers that overflowed: a matrix, or the outputs that it is estimated from.

    Example:
        >>> from forgetting.curvature import Diagonal
        >>> Diagonal({"w": torch.tensor([1.0, torch.inf])})
        Traceback (most recent call last):
        forgetting.curvature.base.NotFinite: the importance of 'w' holds non-finite numbers
    """


def sound(name: str, values: Tensor, signed: Tensor, negative: str) -> None:
    """Raise where ``values`` are not finite, or ``signed`` (they, or a part) not all at least 0."""
    if not torch.isfinite(values).all():
        raise NotFinite(f"{name} holds non-finite numbers")
    if (signed < 0).any():
        raise ValueError(f"{name} holds {negative}")


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
    def retract(self, delta: Mapping[str, Tensor], a: Mapping[str, Factor] | Factor) -> Parameters:
        """aF(I + aF)⁻¹δ, in float32 or better: how far a proximal step moves back towards the anchor.

        Finite for every a ≥ 0, and exactly 0 where F is 0. ``a`` is one number (a float or a 0-d tensor), or
        one a parameter.
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
    def to(self, device: Mapping[str, torch.device] | torch.device | str) -> Curvature:
        """The same matrix on another device, or on the device given for each name."""

    @abstractmethod
    def restricted(self, names: Collection[str]) -> Curvature:
        """The block over some of the names."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values under string keys; ``"curvature"`` names the class. :func:`restored` reads it."""

    @classmethod
    @abstractmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> Curvature:
        """The matrix whose :meth:`state_dict` this is."""

    def elementwise(self) -> Mapping[str, Any] | None:
        """What a diagonal matrix multiplies each parameter by, a number or a tensor; ``None`` where it is none."""
        return None

    def peaks(self) -> dict[tuple[str, ...], float]:
        """The names of each block on the diagonal -> its largest eigenvalue, or a little less where that is dear."""
        return {self.names(): self.largest()}

    def shrink(self, delta: Mapping[str, Tensor], a: Mapping[str, Factor] | Factor) -> Parameters:
        """(I + aF)⁻¹δ."""
        back = self.retract(delta, a)
        return {name: delta[name] - back[name] for name in self.names()}


def restored(state: Mapping[str, Any]) -> Curvature:
    """The matrix of any class whose ``state_dict()`` this is.

    Args:
        state: what ``state_dict()`` gave, perhaps by way of a file.

    Raises:
        ValueError: where the state names a class that does not exist.

    **Cost**: nothing; the tensors of the state are used, not copied.

    Example:
        >>> from forgetting.curvature import Identity
        >>> restored(Identity({"w": 2.0}).state_dict()).largest()
        2.0
    """
    classes = {kind.__name__: kind for kind in _below(Curvature)}
    kind = state.get("curvature")
    if kind not in classes:
        raise ValueError(f"the state holds a matrix of the class {kind!r}; known are {', '.join(sorted(classes))}")
    return classes[kind].from_state_dict(state)


def _below(kind: type[Any]) -> Iterator[type[Any]]:
    """Every class that inherits from one."""
    for below in kind.__subclasses__():
        yield below
        yield from _below(below)


def factor(a: Mapping[str, Factor] | Factor, name: str) -> Factor:
    """The proximal factor of one parameter."""
    return a[name] if isinstance(a, Mapping) else a


def proximal_share(importance: Tensor | float, a: Factor, delta: Tensor) -> Tensor:
    """a·F/(1 + a·F)·δ, elementwise, in float32 or better; a and a·F are capped at the largest finite number."""
    dtype = torch.promote_types(delta.dtype, torch.float32)
    largest = torch.finfo(dtype).max
    capped = a.clamp(max=largest) if isinstance(a, Tensor) else min(a, largest)
    product = (importance.to(dtype) if isinstance(importance, Tensor) else importance) * capped
    if not isinstance(product, Tensor):
        product = min(product, largest)
        return product / (1 + product) * delta.to(dtype)
    product.clamp_(max=largest)
    return product.div_(1 + product) * delta.to(dtype)
