"""Tensors in fewer bits, read a range at a time: how importances and anchors are kept where memory is short."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

GROUP = 128  # neighbours that share a scale
_OCTAVES = 20  # an 8-bit code keeps its relative error down to 2^-20 of the largest of its group
_RATE = math.log(2**_OCTAVES + 1) / 255
_CELL = 0.5 + 2**-7  # half a unit of a 16-bit code, and what a GPU's division may add to it
_CHUNK = GROUP * 2**13
_Kind = TypeVar("_Kind", bound="Compressed")
_KINDS: dict[str, type[Compressed]] = {}


def dense(tensor: Tensor) -> bool:
    """Whether the elements fill one piece of memory, in whatever order."""
    if tensor.is_contiguous():
        return True
    expected = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1:
            if stride != expected:
                return False
            expected *= size
    return expected == tensor.numel()


def flat(tensor: Tensor) -> Tensor:
    """The elements of a dense tensor in the order of memory, as a view."""
    return tensor.view(-1) if tensor.is_contiguous() else tensor.as_strided((tensor.numel(),), (1,))


@dataclass(frozen=True)
class Compressed(ABC):
    """A tensor in integer codes, with one float32 scale a group of 128 neighbours in memory.

    Args:
        codes: one integer an element, in the order of memory.
        scales: one number a group.
        shape: of the tensor.
        strides: of the tensor.
    """

    codes: Tensor
    scales: Tensor
    shape: torch.Size
    strides: tuple[int, ...]
    kind: ClassVar[str]

    def __init_subclass__(cls) -> None:
        _KINDS[cls.kind] = cls

    @staticmethod
    @abstractmethod
    def encode(rows: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """Codes and scales of float64 rows, one row a group; a generator draws which neighbour a number rounds to."""

    @abstractmethod
    def read(self, out: Tensor) -> Tensor:
        """Write what the codes stand for into a flat tensor of as many elements, and return it."""

    @classmethod
    def of(cls: type[_Kind], tensor: Tensor, generator: torch.Generator | None = None) -> _Kind:
        """A tensor in codes."""
        tensor = tensor.detach() if dense(tensor) else tensor.detach().contiguous()
        pairs = [cls.encode(rows, generator) for rows in _rows(flat(tensor))]
        codes, scales = (torch.cat([pair[part] for pair in pairs]) if pairs else torch.empty(0) for part in (0, 1))
        return cls(codes[: tensor.numel()].clone(), scales, tensor.shape, tensor.stride())

    @property
    def device(self) -> torch.device:
        """Where the codes are."""
        return self.codes.device

    @property
    def nbytes(self) -> int:
        """How much memory the codes and the scales take."""
        return self.codes.nbytes + self.scales.nbytes

    def part(self: _Kind, start: int, stop: int) -> _Kind:
        """A range of the elements, in the order of memory, that begins where a group does."""
        scales = self.scales[start // GROUP : -(-stop // GROUP)]
        size = torch.Size([stop - start])
        return replace(self, codes=self.codes[start:stop], scales=scales, shape=size, strides=(1,))

    def moved(self: _Kind, move: Callable[[Tensor], Tensor]) -> _Kind:
        """With other tensors in place of codes and scales."""
        return replace(self, codes=move(self.codes), scales=move(self.scales))

    def whole(self) -> Tensor:
        """The tensor itself, in float32."""
        return self.read(torch.empty(len(self.codes), device=self.device)).as_strided(self.shape, self.strides)

    def state_dict(self) -> dict[str, Any]:
        """The codes as they are: a file of a compressed tensor is as small as the tensor."""
        size, strides = (torch.tensor(part, dtype=torch.int64) for part in (list(self.shape), list(self.strides)))
        return {"kind": self.kind, "codes": self.codes, "scales": self.scales, "shape": size, "strides": strides}


class EightBit(Compressed):
    """Non-negative numbers in 8 bits: the code c stands for s·(e^{kc} − 1), with the largest of a group at c = 255.

    Linear up to 2^-20 of the largest m and logarithmic above it, so that zero stays zero and a number x is off by at
    most 2.73 % of x + m·2^-20 (1.4 % on average over logarithmically even x); twice that where a generator rounds.
    """

    kind = "8 bits, logarithmic"

    @staticmethod
    def encode(rows: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        float32 = torch.finfo(torch.float32)
        peak = rows.amax(1, keepdim=True)
        scales = (peak / 2**_OCTAVES).clamp(float32.tiny, float32.max * 0.999 / 2**_OCTAVES).float()
        codes = torch.log1p(rows / scales).div_(_RATE)
        shift = 0.5 if generator is None else torch.rand(codes.shape, generator=generator).to(codes)
        return codes.add_(shift).floor_().clamp_(0, 255).to(torch.uint8).flatten(), scales.flatten()

    def read(self, out: Tensor) -> Tensor:
        out.copy_(self.codes).mul_(_RATE).exp_().sub_(1)
        for place, groups, width in _grouped(len(out)):
            out[place].view(-1, width).mul_(self.scales[groups, None])
        return out


class SixteenBit(Compressed):
    """Numbers in 16 bits of fixed point: the code c stands for s·c, with the largest of a group at |c| = 32767.

    A number is off by at most half a unit s, 1.6·10⁻⁵ of the largest of its group, and always rounds to the nearest.
    Differences count from the edge of that cell, so that the number that was stored has the difference 0, exactly.
    """

    kind = "16 bits, fixed point"

    @staticmethod
    def encode(rows: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:  # noqa: ARG004
        scales = (rows.abs().amax(1, keepdim=True) / 32767).clamp(min=2.0**-96).float()
        return (rows / scales).round_().clamp_(-32767, 32767).to(torch.int16).flatten(), scales.flatten()

    def read(self, out: Tensor) -> Tensor:
        out.copy_(self.codes)
        for place, groups, width in _grouped(len(out)):
            out[place].view(-1, width).mul_(self.scales[groups, None])
        return out

    def difference(self, weight: Tensor, out: Tensor, scratch: Tensor) -> Tensor:
        """θ−μ of as many flat weights, less half a unit towards 0, written to ``out``."""
        scratch.copy_(self.codes)
        for place, groups, width in _grouped(len(out)):
            units, scales = out[place].view(-1, width), self.scales[groups, None].to(out.dtype)
            torch.div(weight[place].view(-1, width), scales, out=units)
            units.sub_(scratch[place].view(-1, width))
            torch.ops.aten.softshrink.out(units, _CELL, out=units)
            units.mul_(scales)
        return out


def decompressed(state: Mapping[str, Any]) -> Compressed:
    """The compressed tensor whose ``state_dict()`` this is."""
    shape, strides = torch.Size(state["shape"].tolist()), tuple(state["strides"].tolist())
    return _KINDS[state["kind"]](state["codes"], state["scales"], shape, strides)


def _rows(elements: Tensor) -> Iterator[Tensor]:
    """Flat elements in float64, a row a group, the last one filled up with zeros; some rows at a time."""
    for chunk in elements.split(_CHUNK):
        if len(chunk):
            yield torch.nn.functional.pad(chunk.double(), (0, -len(chunk) % GROUP)).view(-1, GROUP)


def _grouped(count: int) -> Iterator[tuple[slice, slice, int]]:
    """The elements, the groups and the width of all whole groups, and of the one that is not."""
    full = count - count % GROUP
    if full:
        yield slice(full), slice(full // GROUP), GROUP
    if full < count:
        yield slice(full, count), slice(full // GROUP, None), count - full
