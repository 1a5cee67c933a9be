"""Convolutions on a GPU: the linear kernel's sums with the unfolded input read where it lies, never written."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl
from torch import Tensor

from forgetting.fisher.kernels import depthwise, linear
from forgetting.fisher.kernels.launch import (
    Plane,
    Tile,
    accumulate,
    ceiling,
    plan,
    product_settings,
    raised,
    reachable,
)

if TYPE_CHECKING:
    from forgetting.fisher.rules.conv import Geometry

_FEW = 16  # channels: fewer of them do not fill a matrix unit, so that several taps share one tile


def products(x: Tensor, g: Tensor, total: Tensor, geometry: Geometry, power: int, memory: int) -> None:
    """total += Σₙ |Σ over an example's images of the weight gradient|^power.

    x [n, r, c_in, …], g [n, r, c_out, …] of one, two or three spatial dimensions, for a convolution of ``geometry``
    from x to g (a transposed one has x and g exchanged); total has the weight's shape and any strides.

    A kernel of one tap is a linear map; one input channel a group has a kernel of its own; all else is a matrix
    product. That one reads 16 or more channels channels-last, into which other layouts are copied, as many examples
    at a time as fit in ``memory``; fewer channels are read as they lie.
    """
    if not x.numel() or not g.numel():
        return
    if geometry.groups == 1 and math.prod(total.shape[2:]) == 1 and not any(geometry.padding):
        for dimension, step in enumerate(geometry.stride, 3):
            x = x.unfold(dimension, 1, step)[..., 0]
        linear.products(_positions(x), _positions(g), total.view(total.shape[:2]), power, memory)
        return
    copied = sum(one[0].nbytes for one in (x, g) if not _readable_as_it_lies(one))
    step = max(1, memory // copied) if copied else len(x)
    for start in range(0, len(x), step):
        images, gradients = _readable(x[start : start + step]), _readable(g[start : start + step])
        for plane in planes(images, gradients, total, geometry):
            _sum_plane(*plane, power, memory)


def planes(x: Tensor, g: Tensor, total: Tensor, geometry: Geometry) -> Iterator[tuple[Tensor, Tensor, Tensor, Plane]]:
    """The same convolution as ones of two dimensions: a line is a flat image; a volume is one convolution for each
    slice of the kernel, in which the slices that it meets are images of their own."""
    if total.ndim == 3:
        plane = Plane((1, *geometry.stride), (0, *geometry.padding), (1, *geometry.dilation), geometry.groups)
        yield x.unsqueeze(-2), g.unsqueeze(-2), total.unsqueeze(-2), plane
        return
    plane = Plane(geometry.stride[-2:], geometry.padding[-2:], geometry.dilation[-2:], geometry.groups)
    if total.ndim == 4:
        yield x, g, total, plane
        return
    stride, padding, dilation = geometry.stride[0], geometry.padding[0], geometry.dilation[0]
    for depth in range(total.shape[2]):
        offset = depth * dilation - padding
        first = max(0, ceiling(-offset, stride))
        last = min(g.shape[3] - 1, (x.shape[3] - 1 - offset) // stride)
        if first <= last:
            met = slice(first * stride + offset, last * stride + offset + 1, stride)
            yield _as_images(x[:, :, :, met]), _as_images(g[:, :, :, first : last + 1]), total[:, :, depth], plane


def launch(x: Tensor, g: Tensor, total: Tensor, plane: Plane, power: int, tile: Tile, splits: int) -> None:
    """The sums of one plane by this tile and this many ranges of examples."""
    groups = plane.groups
    x, g = reachable(x), reachable(g)
    rows, channels, (height, width) = len(total) // groups, total.shape[1], total.shape[2:]
    one_tap = channels >= _FEW
    columns = height * width * ceiling(channels, tile.columns) if one_tap else (
        ceiling(channels * height * width, tile.columns))
    settings = product_settings(x, g, tf32_convolutions())

    def run(out: Tensor, splits: int, share: int, add: bool) -> None:
        sums[(ceiling(rows, tile.rows) * columns, groups, splits)](
            x, g, out, len(x), share, x.shape[1] * g.shape[3] * g.shape[4], columns, rows, channels, height, width,
            *x.shape[3:], *g.shape[3:], *plane.stride, *plane.padding, *plane.dilation,
            *x.stride(), *g.stride(), *out.stride(),
            POWER=power, ADD=add, **settings, ONE_IMAGE=x.shape[1] == 1, ONE_TAP=one_tap,
            ROWS=tile.rows, COLUMNS=tile.columns, DEPTH=tile.depth, num_warps=tile.warps, num_stages=tile.stages)

    accumulate(total, len(x), splits, run)


def tf32_convolutions() -> bool:
    """Whether the user lets torch convolve float32 in tf32, as the weight gradient would be."""
    setting = getattr(torch.backends.cudnn, "conv", None)
    return setting.fp32_precision == "tf32" if setting is not None else torch.backends.cudnn.allow_tf32


def _sum_plane(x: Tensor, g: Tensor, total: Tensor, plane: Plane, power: int, memory: int) -> None:
    if total.shape[1] == 1 and plane.groups > 1:
        depthwise.sum_planes(x, g, total, plane, power, memory)
        return
    groups, (rows, channels, height, width) = plane.groups, total.shape
    wide, positions = max(x.element_size(), g.element_size()) == 4, x.shape[1] * g.shape[3] * g.shape[4]
    shared = channels < _FEW
    columns, matrices = (channels * height * width, groups) if shared else (channels, groups * height * width)
    tile, splits = plan(len(x), positions, rows // groups, columns, matrices, wide, x.device, memory)
    if shared:
        tile = tile._replace(depth=min(tile.depth, 32))  # every number has an address of its own, in registers
    launch(x, g, total, plane, power, tile, splits)


def _positions(images: Tensor) -> Tensor:
    """[examples, positions, channels], a view where there is one image each."""
    flat = images.flatten(3)
    return flat[:, 0].transpose(1, 2) if flat.shape[1] == 1 else flat.transpose(2, 3).flatten(1, 2)


def _readable_as_it_lies(images: Tensor) -> bool:
    return images.shape[2] < _FEW or images.stride(2) == 1


def _readable(images: Tensor) -> Tensor:
    """With channels side by side where there are enough of them to be read together."""
    return images if _readable_as_it_lies(images) else images.movedim(2, -1).contiguous().movedim(-1, 2)


def _as_images(volumes: Tensor) -> Tensor:
    """[n, r·depth, c, height, width] of [n, r, c, depth, height, width]."""
    return volumes.movedim(3, 2).flatten(1, 2)


@triton.jit
def sums(x, g, out, examples, share, positions, tiles, rows, channels, kernel_height, kernel_width,
         height, width, out_height, out_width, down, right, pad_above, pad_left, dilate_down, dilate_right,
         x_example, x_image, x_channel, x_height, x_width, g_example, g_image, g_row, g_height, g_width,
         out_split, out_row, out_channel, out_tap_height, out_tap_width,
         POWER: tl.constexpr, ADD: tl.constexpr, WIDEN: tl.constexpr, PRECISION: tl.constexpr,
         ONE_IMAGE: tl.constexpr, ONE_TAP: tl.constexpr,
         ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr):
    """One tile of out[split] in one group; a column is an input channel at a tap of the kernel.

    With ONE_TAP a tile's columns are channels of the same tap, so that neighbours are read as one; else taps run
    fastest. Examples and blocks of positions are one loop, as in the linear kernel.
    """
    tile, group, part = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    row = (tile // tiles) * ROWS + tl.arange(0, ROWS)
    channel, tap = channels_and_taps(tile % tiles, channels, kernel_height * kernel_width, ONE_TAP, COLUMNS)
    tap_down, tap_right = tap // kernel_width, tap % kernel_width
    above, before = tap_down * dilate_down - pad_above, tap_right * dilate_right - pad_left
    of_channel = ((group * channels + channel) * x_channel)[None, :]
    of_row = ((group * rows + row) * g_row)[:, None]
    known = (channel < channels)[None, :]
    blocks = tl.cdiv(positions, DEPTH)
    first = part * share
    product = tl.zeros([ROWS, COLUMNS], tl.float32)
    total = tl.zeros([ROWS, COLUMNS], tl.float32)
    for step in range(tl.minimum(share, examples - first) * blocks):
        example = (first + step // blocks).to(tl.int64)
        start = (step % blocks) * DEPTH
        position = start + tl.arange(0, DEPTH)
        here = position < positions
        image, line, place = located(position, out_height, out_width, ONE_IMAGE)
        of_g = (image * g_image + line * g_height + place * g_width)[None, :]
        y, z = (line * down)[:, None] + above, (place * right)[:, None] + before
        inside = here[:, None] & (y >= 0) & (y < height) & (z >= 0) & (z < width)
        gradient = tl.load(g + example * g_example + of_row + of_g,
                           mask=(row < rows)[:, None] & here[None, :], other=0.0)
        of_x = (image * x_image)[:, None] + y * x_height + z * x_width
        source = tl.load(x + example * x_example + of_x + of_channel, mask=inside & known, other=0.0)
        if WIDEN:
            gradient, source = gradient.to(tl.float32), source.to(tl.float32)
        product = tl.dot(gradient, source, product, input_precision=PRECISION)
        if start + DEPTH >= positions:
            total += raised(product, POWER)
            product = tl.zeros([ROWS, COLUMNS], tl.float32)
    into = out + part.to(tl.int64) * out_split + (group * rows + row).to(tl.int64)[:, None] * out_row + (
        channel[None, :] * out_channel + tap_down * out_tap_height + tap_right * out_tap_width)
    kept = (row < rows)[:, None] & known
    if ADD:
        total += tl.load(into, mask=kept, other=0.0)
    tl.store(into, total, mask=kept)


@triton.jit
def channels_and_taps(block, channels, taps, ONE_TAP: tl.constexpr, COLUMNS: tl.constexpr):
    """The input channel of each column of a block, and its tap: one number, or [1, COLUMNS]."""
    if ONE_TAP:
        across = tl.cdiv(channels, COLUMNS)
        channel = (block % across) * COLUMNS + tl.arange(0, COLUMNS)
        tap = block // across
    else:
        column = block * COLUMNS + tl.arange(0, COLUMNS)
        channel = column // taps
        tap = (column % taps)[None, :]
    return channel, tap


@triton.jit
def located(position, out_height, out_width, ONE_IMAGE: tl.constexpr):
    """Image, line and place in the line of these positions of an example."""
    image = tl.zeros_like(position)
    line = position // out_width
    if not ONE_IMAGE:
        image = line // out_height
        line = line % out_height
    return image, line, position % out_width
