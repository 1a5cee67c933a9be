"""Convolutions with one input channel a group: sums of products of neighbours, too thin for the matrix units."""

from __future__ import annotations

import math

import triton
import triton.language as tl
from torch import Tensor

from forgetting.fisher.kernels.launch import Plane, Tile, accumulate, ceiling, padded, raised, reachable, split

_HELD = 4096  # products at a time in the registers of one program
_TAPS = 64


def sum_planes(x: Tensor, g: Tensor, total: Tensor, plane: Plane, power: int, memory: int) -> None:
    """total[o, 0, kh, kw] += Σₙ |Σ over images and positions|^power; x [n, r, c, h, w], g [n, r, o, h', w'].

    ``plane`` has c groups. float32 throughout.
    """
    tile = choose(g, total)
    tiles = ceiling(len(total), tile.rows) * ceiling(total.shape[2] * total.shape[3], tile.columns)
    launch(x, g, total, plane, power, tile, split(len(x), tiles, total, memory))


def choose(g: Tensor, total: Tensor) -> Tile:
    """Neighbours in memory in one tile: many channels where they lie side by side, otherwise many positions."""
    taps = padded(total.shape[2] * total.shape[3], _TAPS, least=1)
    channels = padded(len(total), 16, least=1) if g.stride(2) == 1 else 1
    positions = padded(g.shape[1] * math.prod(g.shape[3:]), max(1, _HELD // (taps * channels)), least=1)
    return Tile(channels, taps, positions, warps=4)


def launch(x: Tensor, g: Tensor, total: Tensor, plane: Plane, power: int, tile: Tile, splits: int) -> None:
    """``sum_planes`` by this tile and this many ranges of examples."""
    x, g = reachable(x), reachable(g)
    taps = total.shape[2] * total.shape[3]

    def run(out: Tensor, splits: int, share: int, add: bool) -> None:
        grid = (ceiling(len(total), tile.rows) * ceiling(taps, tile.columns), splits)
        sums[grid](
            x, g, out, len(x), share, x.shape[1] * g.shape[3] * g.shape[4], len(total), len(total) // plane.groups,
            taps, total.shape[3], *x.shape[3:], *g.shape[3:], *plane.stride, *plane.padding, *plane.dilation,
            *x.stride(), *g.stride(), out.stride(0), out.stride(1), out.stride(3), out.stride(4),
            POWER=power, ADD=add, CHANNELS=tile.rows, TAPS=tile.columns, DEPTH=tile.depth, num_warps=tile.warps)

    accumulate(total, len(x), splits, run)


@triton.jit
def sums(x, g, out, examples, share, positions, rows, multiple, taps, kernel_width,
         height, width, out_height, out_width, down, right, pad_above, pad_left, dilate_down, dilate_right,
         x_example, x_image, x_channel, x_height, x_width, g_example, g_image, g_row, g_height, g_width,
         out_split, out_row, out_tap_height, out_tap_width,
         POWER: tl.constexpr, ADD: tl.constexpr, CHANNELS: tl.constexpr, TAPS: tl.constexpr, DEPTH: tl.constexpr):
    """TAPS × CHANNELS of out[split]; ``multiple`` output channels share an input channel."""
    tile, part = tl.program_id(0), tl.program_id(1)
    across = tl.cdiv(taps, TAPS)
    row = (tile // across) * CHANNELS + tl.arange(0, CHANNELS)
    tap = (tile % across) * TAPS + tl.arange(0, TAPS)
    tap_down, tap_right = tap // kernel_width, tap % kernel_width
    above, before = (tap_down * dilate_down - pad_above)[None, :], (tap_right * dilate_right - pad_left)[None, :]
    of_channel = ((row // multiple) * x_channel)[None, None, :]
    blocks = tl.cdiv(positions, DEPTH)
    first = part * share
    product = tl.zeros([TAPS, CHANNELS], tl.float32)
    total = tl.zeros([TAPS, CHANNELS], tl.float32)
    for step in range(tl.minimum(share, examples - first) * blocks):
        example = (first + step // blocks).to(tl.int64)
        start = (step % blocks) * DEPTH
        position = start + tl.arange(0, DEPTH)
        here = position < positions
        image = position // (out_height * out_width)
        line, place = (position // out_width) % out_height, position % out_width
        of_g = image * g_image + line * g_height + place * g_width
        y, z = (line * down)[:, None] + above, (place * right)[:, None] + before
        inside = here[:, None] & (tap < taps)[None, :] & (y >= 0) & (y < height) & (z >= 0) & (z < width)
        of_x = (image * x_image)[:, None] + y * x_height + z * x_width
        gradient = tl.load(g + example * g_example + of_g[:, None] + row[None, :] * g_row,
                           mask=here[:, None] & (row < rows)[None, :], other=0.0)
        source = tl.load(x + example * x_example + of_x[:, :, None] + of_channel,
                         mask=inside[:, :, None] & (row < rows)[None, None, :], other=0.0)
        product += tl.sum(gradient.to(tl.float32)[:, None, :] * source.to(tl.float32), axis=0)
        if start + DEPTH >= positions:
            total += raised(product, POWER)
            product = tl.zeros([TAPS, CHANNELS], tl.float32)
    into = out + part.to(tl.int64) * out_split + row[None, :] * out_row + (
        tap_down * out_tap_height + tap_right * out_tap_width)[:, None]
    kept = (tap < taps)[:, None] & (row < rows)[None, :]
    if ADD:
        total += tl.load(into, mask=kept, other=0.0)
    tl.store(into, total, mask=kept)
