"""The weights, anchors and importances of a penalty, a block that stays in the cache at a time."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from forgetting.curvature.compressed import GROUP, Compressed, dense, flat
from forgetting.curvature.stored import Kept, kept, moved
from forgetting.regularizers.consolidated import Consolidated

CACHE_BLOCK = 5 * 2**15  # two blocks of float32 stay in a cache of 2 MB
DEVICE_BLOCK = 2**22  # long enough to hide what it takes to launch a kernel

_LARGE = 2**20
_NUMPY = {torch.float32: np.float32, torch.float64: np.float64}


@dataclass(slots=True)
class Held:
    """One parameter as the penalty sees it.

    Args:
        weight: θ, live.
        anchor: μ.
        importance: A, laid out as the anchor is, or one number.
    """

    weight: Tensor
    anchor: Kept
    importance: Kept | float

    @property
    def dtype(self) -> torch.dtype:
        """What is computed in: float32 or better."""
        found = {part.dtype for part in (self.weight, self.anchor, self.importance) if isinstance(part, Tensor)}
        return functools.reduce(torch.promote_types, found, torch.float32)

    @property
    def block(self) -> int:
        """How many elements are worked on at a time: equal shares, in whole groups of those that share a scale."""
        longest, count = CACHE_BLOCK if self.weight.device.type == "cpu" else DEVICE_BLOCK, self.weight.numel()
        shares = max(1, -(-count // longest))
        return max(1, -(-count // (shares * GROUP))) * GROUP

    def fits(self, tensor: Tensor) -> bool:
        """Whether a tensor of the weight's shape is laid out as the anchor is."""
        if tensor.layout != torch.strided:
            return False
        if tensor.is_contiguous() and tensor.stride() == _strides(self.anchor):
            return True
        return dense(tensor) and _order(tensor) == _order(self.anchor)

    def blank(self, dtype: torch.dtype) -> Tensor:
        """Memory for a gradient, laid out as the anchor is."""
        count, device, strides = self.weight.numel(), self.weight.device, _strides(self.anchor)
        if device.type == "cpu" and count >= _LARGE and dtype in _NUMPY:
            # numpy asks the system for large pages and torch does not: the first write takes a third of the time.
            return torch.from_numpy(np.empty(count, _NUMPY[dtype])).as_strided(self.anchor.shape, strides)
        return torch.empty_strided(self.anchor.shape, strides, dtype=dtype, device=device)

    def flat_weight(self) -> Tensor:
        """θ in the anchor's order: a view, or a copy where the model changed its memory format since."""
        weight = self.weight.detach()
        return flat(weight if self.fits(weight) else self.blank(weight.dtype).copy_(weight))


class Piece(NamedTuple):
    """A range of one parameter, flat, with what is kept of it wherever it is kept: number, range, θ, μ and A."""

    which: int
    place: slice
    weight: Tensor
    anchor: Any
    importance: Any


class Block(NamedTuple):
    """A range of one parameter, flat, to work on: number, range, θ, θ−μ, A, and memory for a product.

    The last three are of one dtype.
    """

    which: int
    place: slice
    weight: Tensor
    delta: Tensor
    importance: Tensor | float
    product: Tensor


def held(state: Consolidated, live: Mapping[str, Tensor]) -> list[Held] | None:
    """One entry a parameter; ``None`` where the matrix is not diagonal or a weight is not one plain tensor."""
    importances, anchors = state.curvature.elementwise(), kept(state.anchor)
    if importances is None or any(type(weight) not in (Tensor, nn.Parameter) for weight in live.values()):
        return None
    return [Held(live[name], anchors[name], importance) for name, importance in importances.items()]


def blocks(items: Sequence[Held]) -> Iterator[Block]:
    """All parameters, a block at a time; a block is valid until the next one is asked for."""
    pieces = _pieces(items)
    if any(item.anchor.device != item.weight.device for item in items):
        pieces = _streamed(pieces)
    longest = max((min(DEVICE_BLOCK, item.weight.numel()) for item in items), default=0)
    scratches: dict[tuple[torch.device, torch.dtype], tuple[Tensor, ...]] = {}
    last = -1
    for which, place, weight, anchor, importance in pieces:
        if which != last:
            last, key = which, (weight.device, items[which].dtype)
            if key not in scratches:
                scratches[key] = torch.empty(3, longest, device=key[0], dtype=key[1]).unbind()
            delta, product, unpacked = scratches[key]
        count = weight.numel()
        if count != longest:
            delta, product, unpacked = delta[:count], product[:count], unpacked[:count]
        if not isinstance(anchor, Tensor):
            anchor.difference(weight, delta, product)
        elif delta.dtype in (weight.dtype, anchor.dtype):
            torch.sub(weight, anchor, out=delta)
        else:  # both in 16 bits: their difference has more
            delta.copy_(weight).sub_(anchor)
        if not isinstance(importance, float | Tensor):
            importance = importance.read(unpacked)
        elif isinstance(importance, Tensor) and importance.dtype != delta.dtype:
            importance = unpacked.copy_(importance)
        yield Block(which, place, weight, delta, importance, product)


def _pieces(items: Sequence[Held]) -> Iterator[Piece]:
    """All parameters in ranges of a block each."""
    for which, item in enumerate(items):
        weight, count, length = item.flat_weight(), item.weight.numel(), item.block
        if not count:
            continue
        if count <= length:
            yield Piece(which, slice(None), weight, _flat(item.anchor), _flat(item.importance))
            continue
        places = [slice(start, min(start + length, count)) for start in range(0, count, length)]
        parts = zip(places, weight.split(length), _cut(item.anchor, places), _cut(item.importance, places), strict=True)
        yield from (Piece(which, *part) for part in parts)


def _streamed(pieces: Iterator[Piece]) -> Iterator[Piece]:
    """Each piece on its weight's device: it is copied there while the one before it is worked on."""
    sides: dict[torch.device, torch.cuda.Stream] = {}
    finished: deque[torch.cuda.Event] = deque()
    ahead: tuple[Piece, torch.cuda.Event] | None = None
    for piece in pieces:
        device = piece.weight.device
        if device.type != "cuda":
            yield _to(piece, device)
            continue
        if len(finished) == 2:
            finished.popleft().synchronize()  # or the host would run ahead and have all of it copied at once
        side = sides.setdefault(device, torch.cuda.Stream(device))
        with torch.cuda.stream(side):
            coming = _to(piece, device), side.record_event()
        if ahead is not None:
            yield _arrived(*ahead)
            finished.append(torch.cuda.current_stream(ahead[0].weight.device).record_event())
        ahead = coming
    if ahead is not None:
        yield _arrived(*ahead)


def _to(piece: Piece, device: torch.device) -> Piece:
    """The same on another device, without waiting for it."""
    def move(tensor: Tensor) -> Tensor:
        return tensor.to(device, non_blocking=True)

    known = piece.importance if isinstance(piece.importance, float) else moved(piece.importance, move)
    return piece._replace(anchor=moved(piece.anchor, move), importance=known)


def _arrived(piece: Piece, ready: torch.cuda.Event) -> Piece:
    """The piece, to be read by what is launched from now on, and kept until that has read it."""
    stream = torch.cuda.current_stream(piece.weight.device)
    stream.wait_event(ready)
    for part in (piece.anchor, piece.importance):
        tensors = (part.codes, part.scales) if isinstance(part, Compressed) else (part,)
        for tensor in tensors:
            if not isinstance(tensor, float):
                tensor.record_stream(stream)
    return piece


def _flat(found: Kept | float) -> Kept | float:
    """What is kept, in the order of memory."""
    return flat(found) if isinstance(found, Tensor) else found


def _cut(found: Kept | float, places: Sequence[slice]) -> Sequence[Any]:
    """What :func:`_flat` gives, in these ranges."""
    if isinstance(found, Tensor):
        return flat(found).split(places[0].stop)
    return [found if isinstance(found, float) else found.part(place.start, place.stop) for place in places]


def _strides(found: Kept) -> tuple[int, ...]:
    """How far apart neighbours lie."""
    return found.stride() if isinstance(found, Tensor) else found.strides


def _order(found: Kept) -> list[int]:
    """How far apart neighbours lie, in the dimensions that have any."""
    return [stride for stride, size in zip(_strides(found), found.shape, strict=True) if size > 1]
