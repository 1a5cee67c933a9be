"""A layer as a linear map at its positions, and the second moments of its inputs and of the gradients at its outputs.

A linear map has a position a vector that it is applied to, a convolution one a place of its kernel, a look-up one a
token. Inputs come as x [examples, positions, groups, inputs], gradients as g [examples, positions, groups, outputs].
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from forgetting.fisher.capture import Operand, Use
from forgetting.fisher.rules import tile, widened
from forgetting.fisher.rules.conv import Conv, Geometry
from forgetting.fisher.rules.embedding import Embedding
from forgetting.fisher.rules.embedding import products as add_looked_up
from forgetting.fisher.rules.linear import Linear
from forgetting.parameters import Parameters

SHARING = ("expand", "reduce")


def moment(vectors: Tensor) -> Tensor:
    """Σ vvᵀ over all but the last two dimensions: [..., groups, features] -> [groups, features, features]."""
    stacked = vectors.flatten(0, -3).transpose(0, 1)
    return stacked.mT @ stacked


def of_inputs(x: Tensor, sharing: str) -> Tensor:
    """The vectors whose mean second moment is A: every position's for "expand", an example's mean for "reduce"."""
    return x if sharing == "expand" else x.mean(1, keepdim=True)


def of_gradients(g: Tensor, sharing: str) -> Tensor:
    """The vectors whose second moment, summed over positions, is G: every position's, or an example's sum."""
    return g if sharing == "expand" else g.sum(1, keepdim=True)


def counts(tokens: Tensor, rows: int, padding_idx: int | None, sharing: str, dtype: torch.dtype) -> Tensor:
    """The diagonal of Σ of the same vectors' second moments for a look-up's inputs, one 1 a token: [1, rows]."""
    total = torch.zeros(rows, 1, dtype=dtype, device=tokens.device)
    share = 1.0 if sharing == "expand" else 1 / tokens.shape[1]
    ones = torch.full((*tokens.shape, 1), share, dtype=dtype, device=tokens.device)
    add_looked_up(tokens, ones, total, padding_idx, 1 if sharing == "expand" else 2, 0)
    return total.T


def patches(x: Tensor, kernel: tuple[int, ...], geometry: Geometry) -> Tensor:
    """What a convolution's kernel sees at each place: [n, r, channels, …] -> [n, r · places, groups, inputs]."""
    sides = [side for padding in reversed(geometry.padding) for side in (padding, padding)]
    windows = functional.pad(x, sides)
    for place, (size, stride, dilation) in enumerate(zip(kernel, geometry.stride, geometry.dilation, strict=True)):
        windows = windows.unfold(3 + place, dilation * (size - 1) + 1, stride)[..., ::dilation]
    dimensions = len(kernel)
    moved = windows.movedim(2, 2 + dimensions)
    return moved.reshape(len(x), math.prod(moved.shape[1 : 2 + dimensions]), geometry.groups, -1)


@dataclass(frozen=True)
class Layer:
    """What a use with factors is about: its parameters, and how the weight is stored.

    ``groups`` are the row blocks of the weight that have factors of their own: of a grouped convolution, or of a weight
    whose rows serve several uses, as the packed projections of attention do.
    """

    weight: str
    shape: torch.Size
    bias: str | None
    rule: str
    transposed: bool
    groups: int

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters that it covers."""
        return (self.weight,) if self.bias is None else (self.weight, self.bias)

    @classmethod
    def of(cls, use: Use, slots: Mapping[str, str], parameters: Parameters) -> tuple[Layer, slice]:
        """The layer of a use and of those of its parameters (slot -> name) that have factors, and the groups in use."""
        slot = "weight" if "weight" in slots else "bias"
        whole, rows = parameters[slots[slot]], len(use.slots[slot].tensor)
        start = first_row(use.slots[slot], parameters) or 0
        transposed = slot == "weight" and (isinstance(use.rule, Embedding) or getattr(use.rule, "transposed", False))
        bias = slots.get("bias") if slot == "weight" else None
        if isinstance(use.rule, Conv) or transposed:
            groups = use.call.get("groups", 1) if isinstance(use.rule, Conv) else 1
            part = slice(0, groups)
        else:
            unit = math.gcd(start, rows, len(whole))
            groups, part = len(whole) // unit, slice(start // unit, (start + rows) // unit)
        return cls(slots[slot], whole.shape, bias, use.rule.name, transposed, groups), part


def factored(use: Use, slot: str, parameters: Parameters) -> bool:
    """Whether a use is a linear map at its positions, by a whole parameter or (``F.linear``) by some of its rows."""
    row = first_row(use.slots[slot], parameters)
    if isinstance(use.rule, Conv):
        if "output_padding" in use.rule.signatures[use.call["function"]]:
            return False  # a transposed convolution: a linear map of another kind
    elif not isinstance(use.rule, (Linear, Embedding)):
        return False
    if slot == "bias" and "weight" in use.slots and row != first_row(use.slots["weight"], parameters):
        return False
    whole = use.slots[slot].tensor is parameters[use.slots[slot].names[0]]
    return whole or (row is not None and type(use.rule) is Linear)


def first_row(operand: Operand, parameters: Parameters) -> int | None:
    """Where the rows of an operand begin among its parameter's; ``None`` where it is anything but rows of one."""
    tensor, whole = operand.tensor, parameters.get(operand.names[0])
    if tensor is whole:
        return 0
    if whole is None or not operand.selects or len(operand.names) > 1 or not whole.is_contiguous():
        return None
    if (tensor.shape[1:], tensor.stride(), tensor.dtype) != (whole.shape[1:], whole.stride(), whole.dtype):
        return None
    if tensor.untyped_storage().data_ptr() != whole.untyped_storage().data_ptr():
        return None
    row, rest = divmod(int(tensor.storage_offset() - whole.storage_offset()), whole.stride(0))
    return row if rest == 0 else None


def positions(use: Use, sources: Mapping[str, Tensor], gradient: Tensor, slots: Mapping[str, str], groups: int,
              memory: int) -> Iterator[tuple[Tensor, Tensor]]:
    """x and g of a linear map or a convolution, as many examples at a time as fit in ``memory`` bytes.

    x has one group where the ``groups`` of g share their inputs; its last input is the constant 1 of a bias.
    """
    g = widened(gradient)
    if "weight" not in slots:
        flat = _spread(g, use, groups)
        yield flat.new_ones(*flat.shape[:3], 1), flat
        return
    x, weight = widened(sources["input"]), use.call["weight"]
    places = gradient[0, :, 0].numel() * math.prod(weight.shape[2:]) if isinstance(use.rule, Conv) else 0
    step = tile(memory, max(x[0].numel(), places * x.shape[2]) + (weight.numel() if groups > 1 else 0), x)
    for start in range(0, len(x), step):
        images, gradients = x[start : start + step], g[start : start + step]
        flat = _spread(gradients, use, groups)
        if isinstance(use.rule, Conv):
            oriented, _, geometry = use.rule.oriented({"input": images}, gradients, use.call)
            seen = patches(oriented, tuple(weight.shape[2:]), geometry)
        else:
            seen = images.reshape(len(images), -1, 1, images.shape[-1])
        if "bias" in slots:
            seen = torch.cat([seen, seen.new_ones(*seen.shape[:3], 1)], -1)
        yield seen, flat


def _spread(g: Tensor, use: Use, groups: int) -> Tensor:
    """[examples, positions, groups, outputs]."""
    moved = g.movedim(2, -1) if isinstance(use.rule, Conv) else g
    return moved.reshape(len(g), math.prod(moved.shape[1:-1]), groups, -1)
