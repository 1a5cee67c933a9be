"""What the launches of all kernels share: tiles and their number, splits, precision, where the sums go."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

_REACH = 2**31  # what an int32 offset reaches
_RATE = 1.5e12  # products a second in 16 bits of one multiprocessor, as an H100 sustains them
_TRAFFIC = 2e12  # bytes a second to memory


class Tile(NamedTuple):
    """What one program holds: rows × columns of the weight, ``depth`` positions at a time."""

    rows: int
    columns: int
    depth: int
    warps: int = 4
    stages: int = 3


class Plane(NamedTuple):
    """How a convolution of two dimensions walks."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int


@triton.jit
def raised(product, POWER: tl.constexpr):
    """|product|^POWER."""
    return product * product if POWER == 2 else tl.abs(product)


INTERPRETED = not isinstance(raised, triton.JITFunction)


def padded(size: int, most: int, least: int = 16) -> int:
    """The power of two that covers ``size``, between what the matrix units take and ``most``."""
    return max(least, min(most, triton.next_power_of_2(size)))


def ceiling(size: int, part: int) -> int:
    """How many parts cover ``size``."""
    return -(-size // part)


@functools.cache
def processors(device: torch.device) -> int:
    """How many programs run at once."""
    return 1 if device.type == "cpu" else torch.cuda.get_device_properties(device).multi_processor_count


def split(examples: int, tiles: int, total: Tensor, memory: int) -> int:
    """Into how many ranges the examples are cut, so that few tiles still fill the device.

    Each range has its own partial sum, all of them in ``memory`` bytes; they are added up in a fixed order.
    """
    wanted = ceiling(2 * processors(total.device), tiles)
    return max(1, min(examples, wanted, memory // max(1, 4 * total.numel())))


@functools.lru_cache(maxsize=4096)
def plan(examples: int, positions: int, rows: int, columns: int, matrices: int, wide: bool, device: torch.device,
         memory: int) -> tuple[Tile, int]:
    """The tile, and the number of ranges of examples, of least predicted time for ``matrices`` sums [rows, columns].

    The busiest multiprocessor's products, at a rate that grows with the tile since both operands are then read less
    often, and the partial sums' way to memory and back. ``wide``: operands in float32. Chosen by shapes alone, never
    by a stopwatch, so that the order of additions is the same in every run.
    """
    depth = padded(positions, 32 if wide or ceiling(positions, 64) * 64 > 1.2 * positions else 64)
    steps = ceiling(positions, depth) * depth
    affordable = max(1, memory // max(1, 4 * matrices * rows * columns))
    best: tuple[float, Tile, int] | None = None
    for tall, broad in itertools.product((128, 64), repeat=2):
        tall, broad = padded(rows, tall), padded(columns, broad)
        tiles, area = matrices * ceiling(rows, tall) * ceiling(columns, broad), tall * broad
        rate = (_RATE / 6 if wide else _RATE) / (1 + 24 * (tall + broad) / area)
        for share in range(1, examples + 1):
            splits = ceiling(examples, share)
            if splits > affordable:
                continue
            busiest = ceiling(tiles * splits, processors(device)) * share
            seconds = busiest * area * steps / rate + 8 * splits * matrices * rows * columns / _TRAFFIC
            if best is None or seconds < best[0]:
                best = seconds, Tile(tall, broad, depth, warps=8 if area > 64 * 64 else 4), splits
    assert best is not None
    return best[1], best[2]


def accumulate(total: Tensor, examples: int, splits: int, launch: Callable[[Tensor, int, int, bool], None]) -> None:
    """total += what ``launch(out [splits, *total.shape], splits, examples a split, add)`` sums.

    A single split adds to ``total`` itself, in whatever order its dimensions lie.
    """
    share = ceiling(examples, splits)
    splits = ceiling(examples, share)
    with torch.cuda.device_of(total):
        if splits == 1 and total.dtype == torch.float32:
            launch(total.unsqueeze(0), 1, share, True)
            return
        partial = torch.empty(splits, *total.shape, dtype=torch.float32, device=total.device)
        launch(partial, splits, share, False)
        total.add_(partial.sum(0))


def reachable(tensor: Tensor) -> Tensor:
    """``tensor`` itself, or a copy where offsets inside one example would not fit an int32."""
    inside = sum((size - 1) * abs(stride) for size, stride in zip(tensor.shape[1:], tensor.stride()[1:], strict=True))
    return tensor if inside < _REACH else tensor.contiguous()


def product_settings(x: Tensor, g: Tensor, tf32: bool) -> dict[str, object]:
    """How ``tl.dot`` multiplies these two.

    float32 by three products in tf32, whose error is that of float32 itself, on the matrix units ("ieee" would leave
    them for a tenth of their rate); by one where the user lets torch's own weight gradient do so. Operands of two
    types meet in float32, and the interpreter, which reads bfloat16's bits as integers, always multiplies in float32.
    """
    widen = x.dtype != g.dtype or (INTERPRETED and x.dtype == torch.bfloat16)
    return {"WIDEN": widen, "PRECISION": "tf32" if tf32 else "tf32x3"}
