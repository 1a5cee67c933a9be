"""A diagonal and a set of anchors that are kept compressed, and read as if they were not."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from forgetting.curvature.compressed import Compressed, decompressed
from forgetting.curvature.diagonal import Diagonal

Kept = Tensor | Compressed


class Stored(Mapping[str, Tensor]):
    """Name -> tensor in float32 or better, unpacked when it is looked up from what is kept in fewer bits.

    Args:
        kept: name -> a tensor or a compressed one.
    """

    def __init__(self, kept: Mapping[str, Kept]) -> None:
        self.kept = dict(kept)

    def __getitem__(self, name: str) -> Tensor:
        found = self.kept[name]
        if isinstance(found, Compressed):
            return found.whole()
        return found.to(torch.promote_types(found.dtype, torch.float32))

    def __iter__(self) -> Iterator[str]:
        return iter(self.kept)

    def __len__(self) -> int:
        return len(self.kept)


def kept(tensors: Mapping[str, Tensor]) -> Mapping[str, Kept]:
    """Name -> what is kept, without unpacking it."""
    return tensors.kept if isinstance(tensors, Stored) else tensors


def moved(found: Kept, move: Callable[[Tensor], Tensor]) -> Kept:
    """What is kept, with its memory moved."""
    return found.moved(move) if isinstance(found, Compressed) else move(found)


def state(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Name -> what is kept, as tensors and plain values."""
    return {name: found.state_dict() if isinstance(found, Compressed) else found
            for name, found in kept(tensors).items()}


def from_state(state: Mapping[str, Any]) -> dict[str, Kept]:
    """What :func:`state` made plain."""
    return {name: found if isinstance(found, Tensor) else decompressed(found) for name, found in state.items()}


class CompressedDiagonal(Diagonal):
    """A :class:`~forgetting.curvature.Diagonal` that is kept in fewer bits; an entry is unpacked when it is looked up.

    Args:
        values: name -> importance, compressed or not.
        about: ``examples``, ``labels`` and ``routes`` of the diagonal.
    """

    def __init__(self, values: Mapping[str, Kept], **about: Any) -> None:
        super().__init__({}, **about)
        self._values = Stored(values)

    def elementwise(self) -> Mapping[str, Any]:
        return kept(self._values)

    def to(self, device: Mapping[str, torch.device] | torch.device | str) -> CompressedDiagonal:
        values = {name: moved(value, partial(Tensor.to, device=device[name] if isinstance(device, Mapping) else device))
                  for name, value in self.elementwise().items()}
        return CompressedDiagonal(values, **self.about())

    def restricted(self, names: Collection[str]) -> CompressedDiagonal:
        return CompressedDiagonal({name: self.elementwise()[name] for name in names}, **self.about())

    def state_dict(self) -> dict[str, Any]:
        return {"curvature": "CompressedDiagonal", "values": state(self._values), **self.about()}

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> CompressedDiagonal:
        return cls(from_state(state["values"]), **{name: state.get(name) for name in Diagonal({}).about()})
