"""The quadratic penalty on a GPU: value and gradient of all parameters in one pass over memory."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

GROUP = 128  # neighbours in memory that share a scale
RATE = math.log(2**20 + 1) / 255  # of the 8-bit code
CELL = 0.5 + 2**-7  # of the 16-bit code: half a unit, and what float32 adds to it
LINES = 16  # groups that one program reads
_PLAIN = {torch.float32: tl.float32, torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}
_TYPES = {**_PLAIN, torch.uint8: tl.uint8, torch.int16: tl.int16}


class Coded(NamedTuple):
    """A tensor in integers, in the order in which its weight lies in memory, with one float32 scale s a group of 128.

    uint8, for an importance: code c stands for s·(e^{kc} − 1), k = ``RATE``. int16, for an anchor: c stands for s·c,
    and θ − s·c counts from the edge of the cell: within ``CELL``·s of s·c it is 0.
    """

    codes: Tensor
    scales: Tensor


Stored = Tensor | Coded


class _Slots(NamedTuple):
    """What the kernel reads of one weight, a column of its table each; the numbers of all in the same order."""

    weight: Tensor
    gradient: Tensor | None
    anchor: Tensor
    anchor_scales: Tensor | None
    importance: Tensor
    importance_scales: Tensor | None

    def types(self) -> tuple[torch.dtype | None, ...]:
        """What a launch is compiled for."""
        return tuple(None if one is None else one.dtype for one in self)



def quadratic(weights: Sequence[Tensor], anchors: Sequence[Stored], importances: Sequence[Stored],
              gradients: Sequence[Tensor] | None = None, strength: float = 1.0) -> Tensor:
    """½ Σ F(θ−θ*)² in float32; with ``gradients``, strength·F(θ−θ*) is added to them in the same pass.

    All on one device. Weights, gradients, anchors and importances are float32, float16 or bfloat16 each; an anchor
    and an importance may be :class:`Coded`. Arithmetic is in float32, and the same call gives the same bits.
    Parameters of the same types share one launch. What lies in memory as its weight does is read as it lies; what
    lies otherwise is copied first.

    Raises:
        ValueError: where a stored tensor has another size than its weight, or a type that is not read.
    """
    launches: dict[tuple[torch.dtype | None, ...], list[_Slots]] = {}
    copies: list[tuple[Tensor, Tensor]] = []
    for at, (weight, anchor, importance) in enumerate(zip(weights, anchors, importances, strict=True)):
        _check(weight, anchor, "anchor", torch.int16)
        _check(weight, importance, "importance", torch.uint8)
        gradient = None if gradients is None else gradients[at]
        slots = _slots(weight.detach(), gradient, anchor, importance)
        if gradient is not None and slots.gradient is not None and slots.gradient is not gradient:
            copies.append((gradient, slots.gradient))
        if weight.numel():
            launches.setdefault(slots.types(), []).append(slots)
    parts = [_launch(rows, strength) for rows in launches.values()]
    for gradient, laid in copies:
        gradient.copy_(laid)
    if not parts:
        return torch.zeros((), device=weights[0].device if weights else None)
    return torch.cat(parts).sum(dtype=torch.float64).mul_(0.5).float()


def _check(weight: Tensor, stored: Stored, what: str, code: torch.dtype) -> None:
    """Addresses carry no size, so that nothing later would notice a wrong one."""
    if isinstance(stored, Tensor):
        came, fits = stored, stored.shape == weight.shape and stored.dtype in _PLAIN
    else:
        came, groups = stored.codes, triton.cdiv(weight.numel(), GROUP)
        fits = came.dtype == code and came.numel() == weight.numel() and stored.scales.numel() == groups
        fits = fits and stored.scales.dtype == torch.float32
    if not fits or weight.dtype not in _PLAIN:
        raise ValueError(f"{what} {came.dtype} {tuple(came.shape)} for a weight {weight.dtype} {tuple(weight.shape)}: "
                         f"give float32, float16 or bfloat16 of the same shape, or codes {code}, one a number, with a "
                         f"float32 scale a group of {GROUP}")


def _slots(weight: Tensor, gradient: Tensor | None, anchor: Stored, importance: Stored) -> _Slots:
    """All in the order in which the weight lies in memory; row by row where it leaves gaps."""
    order = torch.empty_like(weight, device="meta")
    if order.stride() != weight.stride():
        order = torch.empty(weight.shape, device="meta")

    def laid(one: Tensor) -> Tensor:
        as_it_is = one.stride() == order.stride() or (one.is_contiguous() and order.is_contiguous())
        return one if as_it_is else torch.empty_like(order, dtype=one.dtype, device=one.device).copy_(one)

    def stored(one: Stored) -> tuple[Tensor, Tensor | None]:
        return (laid(one), None) if isinstance(one, Tensor) else (one.codes.contiguous(), one.scales.contiguous())

    return _Slots(laid(weight), None if gradient is None else laid(gradient), *stored(anchor), *stored(importance))


def _launch(rows: Sequence[_Slots], strength: float) -> Tensor:
    """Σ F(θ−θ*)² a program, of weights whose tensors have the same types."""
    sizes, device = tuple(row.weight.numel() for row in rows), rows[0].weight.device
    table = torch.tensor([[*(0 if one is None else one.data_ptr() for one in row), size]
                          for row, size in zip(rows, sizes, strict=True)])
    aligned = not (table[:, :-1] % 16).any()
    owners, blocks = _programs(sizes, device)
    parts = torch.empty(len(owners), dtype=torch.float32, device=device)
    weight, gradient, anchor, _, importance, _ = (None if kind is None else _TYPES[kind] for kind in rows[0].types())
    with torch.cuda.device_of(parts):
        penalty[(len(owners),)](
            table.to(device, non_blocking=True), owners, blocks, parts, strength, RATE, CELL, WEIGHT=weight,
            GRADIENT=gradient, ANCHOR=anchor, IMPORTANCE=importance, ALIGNED=bool(aligned), LINES=LINES, GROUP=GROUP,
            num_warps=4)
    return parts


@functools.lru_cache(maxsize=8)
def _programs(sizes: tuple[int, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """Which weight, and which block of it, each program reads."""
    counts = torch.tensor([triton.cdiv(size, LINES * GROUP) for size in sizes])
    owners = torch.repeat_interleave(torch.arange(len(sizes)), counts)
    blocks = torch.arange(len(owners)) - (counts.cumsum(0) - counts)[owners]
    return owners.to(device, torch.int32), blocks.to(device, torch.int64)


@triton.jit
def penalty(table, owners, blocks, parts, strength, rate, cell, WEIGHT: tl.constexpr, GRADIENT: tl.constexpr,
            ANCHOR: tl.constexpr, IMPORTANCE: tl.constexpr, ALIGNED: tl.constexpr, LINES: tl.constexpr,
            GROUP: tl.constexpr):
    """One block of one weight; whole blocks are read without a mask, which would cut them into single numbers."""
    program = tl.program_id(0)
    row = table + tl.load(owners + program) * 7
    block = tl.load(blocks + program)
    size = tl.load(row + 6)
    if (block + 1) * (LINES * GROUP) <= size:
        value = block_sum(row, block, size, strength, rate, cell, WEIGHT, GRADIENT, ANCHOR, IMPORTANCE, ALIGNED, False,
                          LINES, GROUP)
    else:
        value = block_sum(row, block, size, strength, rate, cell, WEIGHT, GRADIENT, ANCHOR, IMPORTANCE, ALIGNED, True,
                          LINES, GROUP)
    tl.store(parts + program, value)


@triton.jit
def block_sum(row, block, size, strength, rate, cell, WEIGHT: tl.constexpr, GRADIENT: tl.constexpr,
              ANCHOR: tl.constexpr, IMPORTANCE: tl.constexpr, ALIGNED: tl.constexpr, MASKED: tl.constexpr,
              LINES: tl.constexpr, GROUP: tl.constexpr):
    """Σ F(θ−θ*)² over one block; strength·F(θ−θ*) is added to its gradient where there is one."""
    line = (block * LINES + tl.arange(0, LINES))[:, None]
    number = line * GROUP + tl.arange(0, GROUP)[None, :]
    inside = number < size if MASKED else None
    begun = line * GROUP < size if MASKED else None
    zero: tl.constexpr = 0 if MASKED else None
    one: tl.constexpr = 1.0 if MASKED else None
    weight = tl.load(place(row, 0, number, WEIGHT, ALIGNED), mask=inside, other=zero).to(tl.float32)
    anchor = tl.load(place(row, 2, number, ANCHOR, ALIGNED), mask=inside, other=zero).to(tl.float32)
    if ANCHOR == tl.int16:  # noqa: SIM300
        scale = tl.load(place(row, 3, line, tl.float32, ALIGNED), mask=begun, other=one)
        units = weight / scale - anchor
        away = (units - tl.minimum(tl.maximum(units, -cell), cell)) * scale
    else:
        away = weight - anchor
    importance = tl.load(place(row, 4, number, IMPORTANCE, ALIGNED), mask=inside, other=zero).to(tl.float32)
    if IMPORTANCE == tl.uint8:  # noqa: SIM300
        scale = tl.load(place(row, 5, line, tl.float32, ALIGNED), mask=begun, other=one)
        importance = (tl.exp(importance * rate) - 1) * scale
    pull = importance * away
    if GRADIENT is not None:
        into = place(row, 1, number, GRADIENT, ALIGNED)
        gradient = tl.load(into, mask=inside, other=zero).to(tl.float32) + strength * pull
        tl.store(into, gradient.to(GRADIENT), mask=inside)
    return tl.sum(tl.sum(pull * away, axis=1), axis=0)


@triton.jit
def place(row, SLOT: tl.constexpr, number, TYPE: tl.constexpr, ALIGNED: tl.constexpr):
    """The addresses of these numbers in the tensor of a slot of the table."""
    address = tl.load(row + SLOT).to(tl.pointer_type(TYPE))
    if ALIGNED:
        address = tl.multiple_of(address, 16)
    return address + number
