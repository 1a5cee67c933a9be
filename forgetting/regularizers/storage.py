"""In how many bits, and where, a penalty keeps what it remembers, and what that takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from forgetting.curvature import Diagonal, Identity
from forgetting.curvature.compressed import GROUP, Compressed, EightBit, SixteenBit, dense
from forgetting.curvature.stored import CompressedDiagonal, Kept, Stored, kept, moved
from forgetting.regularizers.consolidated import Consolidated

STORAGES = ("float32", "bfloat16", "int8")


def stored(state: Consolidated, storage: str) -> Consolidated:
    """The state in as many bits as ``storage`` says; itself, where it is.

    Raises:
        TypeError: for a matrix that is not diagonal, in less than full precision.
    """
    if storage == "float32":
        return _laid_out(_expanded(state))
    if not isinstance(state.curvature, Diagonal | Identity):
        raise TypeError(f"storage={storage!r} compresses diagonals; a {type(state.curvature).__name__} needs "
                        "storage='float32'")
    state = _laid_out(state)
    anchor = Stored({name: _short(value) for name, value in kept(state.anchor).items()})
    if not isinstance(state.curvature, Diagonal):
        return replace(state, anchor=anchor)
    # Rounding to the nearest would lose every task that adds less than half a unit to what is there.
    generator = torch.Generator().manual_seed(state.tasks) if state.tasks > 1 else None
    values = {name: _compressed(value, storage, generator) for name, value in state.curvature.elementwise().items()}
    return replace(state, curvature=CompressedDiagonal(values, **state.curvature.about()), anchor=anchor)


def offloaded(state: Consolidated) -> Consolidated:
    """The state in the memory of the CPU, pinned where there is a GPU to read it.

    Raises:
        TypeError: for a matrix that is not diagonal.
    """
    if state.curvature.elementwise() is None:
        raise TypeError(f"offload=True streams diagonals; a {type(state.curvature).__name__} needs offload=False")
    curvature = state.curvature
    if isinstance(curvature, Diagonal):
        pinned: dict[str, Any] = {name: moved(value, _pinned) for name, value in curvature.elementwise().items()}
        curvature = type(curvature)(pinned, **curvature.about())
    anchor = Stored({name: moved(value, _pinned) for name, value in kept(state.anchor).items()})
    rests = {kind: {name: _pinned(part) for name, part in rest.items()} for kind, rest in state.rests.items()}
    return replace(state, curvature=curvature, anchor=anchor, rests=rests)


def taken(state: Consolidated) -> dict[str, int]:
    """Bytes of the parts of a state."""
    return {
        "anchor": sum(value.nbytes for value in kept(state.anchor).values()),
        "importance": _nbytes(state.curvature.state_dict()),
        "rests": _nbytes(state.rests),
    }


def expected(live: Mapping[str, Tensor], storage: str, *, importances: bool, separate: bool) -> dict[str, int]:
    """Bytes that the parts of a state over these parameters will take, at most."""
    anchor = importance = rests = 0
    for weight in live.values():
        count, full = weight.numel(), torch.promote_types(weight.dtype, torch.float32).itemsize
        scales = 4 * -(-count // GROUP)
        exact = storage == "float32" or weight.dtype.itemsize == 2
        anchor += count * (full if storage == "float32" else 2) + (0 if exact else scales)
        importance += count * {"float32": full, "bfloat16": 2, "int8": 1}[storage] + scales * (storage == "int8")
        rests += 2 * 4 * count
    return {"anchor": anchor, "importance": importance if importances else 0, "rests": rests if separate else 0}


def _expanded(state: Consolidated) -> Consolidated:
    """The state in full precision; itself, where it is."""
    if isinstance(state.curvature, CompressedDiagonal):
        state = replace(state, curvature=Diagonal(dict(state.curvature), **state.curvature.about()))
    if any(isinstance(value, Compressed) or value.dtype.itemsize < 4 for value in kept(state.anchor).values()):
        state = replace(state, anchor=dict(state.anchor))
    return state


def _laid_out(state: Consolidated) -> Consolidated:
    """The state with each importance in its anchor's order of memory, and no gaps in either."""
    anchors = {name: value if isinstance(value, Compressed) or dense(value) else value.contiguous()
               for name, value in kept(state.anchor).items()}
    state = replace(state, anchor=Stored(anchors))
    if type(state.curvature) is not Diagonal:
        return state
    values = {name: _like(value, anchors[name]) for name, value in state.curvature.items()}
    if all(value is state.curvature[name] for name, value in values.items()):
        return state
    return replace(state, curvature=Diagonal(values, **state.curvature.about()))


def _like(value: Tensor, anchor: Kept) -> Tensor:
    """A tensor in an anchor's order of memory."""
    strides = anchor.strides if isinstance(anchor, Compressed) else anchor.stride()
    if value.stride() == strides:
        return value
    return torch.empty_strided(value.shape, strides, dtype=value.dtype, device=value.device).copy_(value)


def _short(anchor: Kept) -> Kept:
    """An anchor in 16 bits: as it is where half precision holds it exactly, as the weights of such a model."""
    if isinstance(anchor, Compressed) or anchor.dtype.itemsize == 2:
        return anchor
    for dtype in (torch.bfloat16, torch.float16):
        half = anchor.to(dtype)
        if torch.equal(half.to(anchor.dtype), anchor):
            return half
    return SixteenBit.of(anchor)


def _compressed(value: Kept, storage: str, generator: torch.Generator | None) -> Kept:
    """An importance in 8 or 16 bits; itself, where it is."""
    if storage == "int8":
        return value if isinstance(value, EightBit) else EightBit.of(_read(value), generator)
    if isinstance(value, Tensor) and value.dtype == torch.bfloat16:
        return value
    value = _read(value).float().clamp(max=torch.finfo(torch.bfloat16).max)
    if generator is None:
        return value.bfloat16()
    bits = value.view(torch.int32)
    noise = torch.randint(2**16, bits.shape, generator=generator, dtype=torch.int32).to(bits.device)
    return ((bits + noise) & -(2**16)).view(torch.float32).bfloat16()


def _read(value: Kept) -> Tensor:
    """A tensor, compressed or not."""
    return value.whole() if isinstance(value, Compressed) else value


def _pinned(tensor: Tensor) -> Tensor:
    """A tensor in memory that a GPU can read while it works."""
    near = tensor.cpu()
    return near.pin_memory() if torch.cuda.is_available() and not near.is_pinned() else near


def _nbytes(value: Any) -> int:
    """Bytes of all tensors in a state."""
    if isinstance(value, Mapping):
        return sum(_nbytes(entry) for entry in value.values())
    return value.nbytes if isinstance(value, Tensor) else 0
