"""Which parameters a Kronecker-factored block is about, and how they lie in it."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from forgetting.curvature.base import Factor, factor
from forgetting.curvature.factors import Eigen, Matrix, matrix_of
from forgetting.curvature.nearest import nearest
from forgetting.parameters import Parameters


@dataclass(frozen=True)
class Block:
    """One layer's weight, its bias as the column of a constant input, and the matrix over both.

    Args:
        weight: the parameter's name.
        shape: its shape.
        matrix: over changes [groups, outputs, inputs], in the weight's own order, then the bias.
        bias: the name of the parameter that is the last input's column; ``None`` where there is none.
        transposed: whether the weight is stored inputs first: look-ups, and GPT-2's Conv1D.

    Raises:
        ValueError: where the matrix has another size than the parameters.

    Example:
        >>> from forgetting.curvature import Factors
        >>> matrix = Factors(torch.eye(3)[None], torch.eye(4)[None])
        >>> Block("0.weight", torch.Size([4, 2]), matrix, bias="0.bias").names
        ('0.weight', '0.bias')
    """

    weight: str
    shape: torch.Size
    matrix: Matrix
    bias: str | None = None
    transposed: bool = False

    def __post_init__(self) -> None:
        groups, outputs, inputs = self.matrix.size
        weights = groups * outputs * (inputs - (self.bias is not None))
        rows = self.shape[-1] if self.transposed else self.shape[0]
        if math.prod(self.shape) != weights or rows != groups * outputs or (self.transposed and groups > 1):
            raise ValueError(f"{self.weight!r} of shape {tuple(self.shape)} does not fit a matrix over {groups} groups "
                             f"of {outputs} outputs × {inputs} inputs" + (" with a bias" if self.bias else ""))

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters that it covers."""
        return (self.weight,) if self.bias is None else (self.weight, self.bias)

    def product(self, delta: Mapping[str, Tensor]) -> Parameters:
        """Fδ."""
        packed = self._packed(delta)
        with torch.autocast(packed.device.type, enabled=False):
            return self._unpacked(self.matrix.product(packed))

    def quadratic(self, delta: Mapping[str, Tensor]) -> Tensor:
        """δᵀFδ."""
        packed = self._packed(delta)
        with torch.autocast(packed.device.type, enabled=False):
            return (packed * self.matrix.product(packed)).sum()

    def retract(self, delta: Mapping[str, Tensor], a: Mapping[str, Factor] | Factor) -> Parameters:
        """aF(I + aF)⁻¹δ, with a factor of its own for the bias where ``a`` says so."""
        packed, first = self._packed(delta), factor(a, self.weight)
        last = None if self.bias is None else factor(a, self.bias)
        if last is first or (not isinstance(first, Tensor) and not isinstance(last, Tensor) and first == last):
            last = None
        with torch.autocast(packed.device.type, enabled=False):
            return self._unpacked(self.matrix.retract(packed, first, last))

    def diagonal(self) -> Parameters:
        """One importance a weight."""
        return self._unpacked(self.matrix.diagonal())

    def restricted(self, names: Collection[str]) -> Block:
        """The block over one of its two parameters, or over both."""
        if self.bias is None or {self.weight, self.bias} <= set(names):
            return self
        if self.weight in names:
            return replace(self, matrix=self.matrix.leading(), bias=None)
        groups, outputs, _ = self.matrix.size
        return Block(self.bias, torch.Size([groups * outputs]), self.matrix.last())

    def scaled(self, c: float) -> Block:
        """c·F."""
        return replace(self, matrix=self.matrix.scaled(c))

    def to(self, device: torch.device | str) -> Block:
        """The same on another device."""
        return replace(self, matrix=self.matrix.to(device))

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values, without the weight's name."""
        matrix = self.matrix
        return {"bias": self.bias, "transposed": self.transposed, "shape": torch.tensor(self.shape),
                "cut": isinstance(matrix, Eigen) and matrix.cut, **matrix.tensors()}

    @classmethod
    def from_state_dict(cls, weight: str, state: Mapping[str, Any]) -> Block:
        """The block whose :meth:`state_dict` this is."""
        return cls(weight, torch.Size(state["shape"].tolist()), matrix_of(state, state["cut"]), state["bias"],
                   state["transposed"])

    def blended(self, other: Block, decay: float) -> tuple[Block, float]:
        """The nearest block to decay·self + other, and its Frobenius distance from that sum."""
        same = (self.shape, self.transposed) == (other.shape, other.transposed)
        if not same or (self.bias and other.bias and self.bias != other.bias):
            raise ValueError(f"two blocks of {self.weight!r} that differ in shape or bias do not blend: "
                             f"{tuple(self.shape)} with {self.bias}, {tuple(other.shape)} with {other.bias}")
        matrix, distance = nearest(self.matrix, other.matrix, decay)
        return replace(other, matrix=matrix, bias=self.bias or other.bias), distance

    def _packed(self, delta: Mapping[str, Tensor]) -> Tensor:
        """δ as [groups, outputs, inputs], in float32 or better and no less than the matrix."""
        groups, outputs, _ = self.matrix.size
        weight = delta[self.weight]
        packed = (weight.mT if self.transposed else weight).reshape(groups, outputs, -1)
        if self.bias is not None:
            bias = delta[self.bias].reshape(groups, outputs, 1)
            dtype = torch.promote_types(packed.dtype, bias.dtype)
            packed = torch.cat([packed.to(dtype), bias.to(dtype)], -1)
        dtype = torch.promote_types(torch.promote_types(packed.dtype, self.matrix.dtype), torch.float32)
        return packed.to(dtype)

    def _unpacked(self, packed: Tensor) -> Parameters:
        if self.bias is None:
            return {self.weight: self._shaped(packed)}
        return {self.weight: self._shaped(packed[..., :-1]), self.bias: packed[..., -1].flatten()}

    def _shaped(self, packed: Tensor) -> Tensor:
        weight = packed.squeeze(0).mT if self.transposed else packed
        return weight.reshape(self.shape).contiguous()
