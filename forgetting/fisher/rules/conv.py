"""Convolutions of one, two and three dimensions, transposed ones too; groups, dilation, any stride."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from forgetting.fisher import kernels
from forgetting.fisher.rules import linear
from forgetting.fisher.rules.base import Call, Rule, Sources, Totals, add_in_tiles, add_powers, tile, widened

_FORWARD = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
_TRANSPOSED = ("input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation")
_FEW, _THIN = 256, 4  # positions, input channels: up to either a copy of the windows and a matrix product beat the
                      # library's convolution
_GATHERED = 2**24  # bytes of such copies at once


class Geometry(NamedTuple):
    """How a convolution walks; one number a spatial dimension."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int


def products(x: Tensor, g: Tensor, total: Tensor, geometry: Geometry, power: int, memory: int) -> None:
    """total += Σₙ |Σ over an example's images of the weight gradient|^power.

    x [n, r, c_in, …], g [n, r, c_out, …] for a convolution of ``geometry`` from x to g; total has its weight's shape.
    """
    positions = x.shape[1] * math.prod(g.shape[3:])
    thin = x.shape[2] <= _THIN and positions <= tile(min(memory, _GATHERED), total[0].numel(), x)
    gathered = geometry.groups == 1 and (positions <= _FEW or thin)
    if geometry.groups == 1 and positions > 1 and _pointwise(total, geometry):
        for dimension, stride in enumerate(geometry.stride, start=3):
            x = x[(slice(None),) * dimension + (slice(None, None, stride),)]
        _as_linear(_channels_last(x), _channels_last(g), total, power, memory)
    elif gathered:
        step = tile(min(memory, _GATHERED), positions * total[0].numel(), x)
        channels_last = total.movedim(1, -1)
        own = channels_last.is_contiguous()  # then the sums themselves are the matrix
        matrix = channels_last.flatten(1) if own else total.new_zeros(len(total), total[0].numel())
        for start in range(0, len(x), step):
            part = slice(start, start + step)
            linear.products(_windows(x[part], g.shape[3:], total.shape[2:], geometry), _channels_last(g[part]), matrix,
                            power, memory)
        if not own:
            channels_last.add_(matrix.view(channels_last.shape))
    elif x.shape[1] == 1 and (geometry.groups == x.shape[2] or positions > _FEW):
        _folded(x[:, 0], g[:, 0], total, geometry, power, linear.cached(memory))
    else:
        for image, gradient in zip(x, g, strict=True):
            add_powers(total, weight_gradient(image, gradient, total, geometry).unsqueeze(0), power)


def weight_gradient(x: Tensor, g: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    """The weight gradient of one example, x [images, c_in, …], g [images, c_out, …], by the library itself."""
    stride, padding, dilation, groups = geometry
    return torch.ops.aten.convolution_backward(
        g, x, weight, None, stride, padding, dilation, False, [0] * len(stride), groups, [False, True, False])[1]


def _pointwise(total: Tensor, geometry: Geometry) -> bool:
    return all(size == 1 for size in total.shape[2:]) and not any(geometry.padding)


def _channels_last(images: Tensor) -> Tensor:
    """[examples, positions, channels] of [examples, images, channels, …], a view where there is one image each."""
    flat = images.flatten(3)
    return flat[:, 0].transpose(1, 2) if flat.shape[1] == 1 else flat.transpose(2, 3).flatten(1, 2)


def _windows(x: Tensor, outputs: torch.Size, kernel: torch.Size, geometry: Geometry) -> Tensor:
    """What each output position sees, [examples, positions, kernel · channels]: channels last, so that a copy moves
    whole rows."""
    images = x.flatten(0, 1).movedim(1, -1)
    around = [side for padding in reversed(geometry.padding) for side in (padding, padding)]
    images = functional.pad(images, (0, 0, *around))
    for d, size in enumerate(kernel):
        dilation = geometry.dilation[d]
        images = images.unfold(1 + d, dilation * (size - 1) + 1, geometry.stride[d])[..., ::dilation]
        images = images.narrow(1 + d, 0, outputs[d])
    channels = 1 + len(kernel)
    return images.movedim(channels, -1).reshape(len(x), -1, kernel.numel() * x.shape[2])


def _as_linear(x: Tensor, g: Tensor, total: Tensor, power: int, memory: int) -> None:
    """By the linear rule, on the weight as a matrix."""
    if total.is_contiguous():
        linear.products(x, g, total.view(len(total), -1), power, memory)
    else:
        matrix = total.new_zeros(len(total), total[0].numel())
        linear.products(x, g, matrix, power, memory)
        total.add_(matrix.view(total.shape))


def _folded(x: Tensor, g: Tensor, total: Tensor, geometry: Geometry, power: int, memory: int) -> None:
    """Several examples as groups of one convolution, whose weight gradient is then theirs one by one."""
    def gradients(part: slice) -> Tensor:
        images, gradients = x[part], g[part]
        n = len(images)
        weight = total.new_empty(1).expand(n * len(total), *total.shape[1:])
        gradient = weight_gradient(images.reshape(1, -1, *x.shape[2:]), gradients.reshape(1, -1, *g.shape[2:]), weight,
                                   geometry._replace(groups=n * geometry.groups))
        return gradient.view(n, *total.shape)

    add_in_tiles(total, len(x), tile(memory, total.numel(), x), gradients, power)


class Conv(Rule):
    """The weight gradient an example at a time, by whichever product is fastest for its shape."""

    name = "conv"
    signatures = {
        torch.conv1d: _FORWARD,
        torch.conv2d: _FORWARD,
        torch.conv3d: _FORWARD,
        torch.conv_transpose1d: _TRANSPOSED,
        torch.conv_transpose2d: _TRANSPOSED,
        torch.conv_transpose3d: _TRANSPOSED,
    }

    def supports(self, call: Call, slots: Collection[str]) -> bool:
        return call["input"].ndim == call["weight"].ndim and _padding(call) is not None

    def leading(self, call: Call) -> int:
        return 1

    def accumulate(self, sources: Sources, gradient: Tensor, call: Call, totals: Totals, power: int,
                   memory: int) -> None:
        if "weight" in totals:
            x, g, geometry = self.oriented(sources, gradient, call)
            if kernels.serve(x, g):
                from forgetting.fisher.kernels import conv

                conv.products(x, g, totals["weight"], geometry, power, memory)
            else:
                products(*_alike(x, g), totals["weight"], geometry, power, memory)
        if "bias" in totals:
            add_powers(totals["bias"], _biases(gradient), power)

    def add_gradients(self, sources: Sources, gradient: Tensor, call: Call, slot: str, out: Tensor) -> None:
        if slot == "bias":
            out.add_(_biases(gradient))
            return
        x, g, geometry = self.oriented(sources, gradient, call)
        for one, image, output in zip(out, *_alike(x, g), strict=True):
            one.add_(weight_gradient(image, output, one, geometry))

    def oriented(self, sources: Sources, gradient: Tensor, call: Call) -> tuple[Tensor, Tensor, Geometry]:
        """Input, output gradient and geometry of a convolution with this weight gradient: a transposed one's roles
        are swapped."""
        dimensions = call["weight"].ndim - 2
        padding = _padding(call)
        assert padding is not None
        geometry = Geometry(_each(call.get("stride", 1), dimensions), padding,
                            _each(call.get("dilation", 1), dimensions), call.get("groups", 1))
        x, g = sources["input"], gradient
        return (g, x, geometry) if self.signatures[call["function"]] is _TRANSPOSED else (x, g, geometry)


def _alike(x: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    """Both in float32 or better, and in one type (under autocast they differ)."""
    common = torch.promote_types(torch.promote_types(x.dtype, g.dtype), torch.float32)
    return x.to(common), g.to(common)


def _biases(gradient: Tensor) -> Tensor:
    """[examples, channels]."""
    return widened(gradient).flatten(3).sum((1, 3)) if gradient.ndim > 3 else widened(gradient).sum(1)


def _each(value: Any, dimensions: int) -> tuple[int, ...]:
    if isinstance(value, int):
        return (value,) * dimensions
    return tuple(value) * (dimensions if len(value) == 1 else 1)


def _padding(call: Call) -> tuple[int, ...] | None:
    """The padding in numbers; None for an asymmetric one, which no single number says."""
    padding, dimensions = call.get("padding", 0), call["weight"].ndim - 2
    if padding == "valid":
        return (0,) * dimensions
    if padding != "same":
        return _each(padding, dimensions)
    dilation = _each(call.get("dilation", 1), dimensions)
    total = [d * (size - 1) for d, size in zip(dilation, call["weight"].shape[2:], strict=True)]
    return None if any(t % 2 for t in total) else tuple(t // 2 for t in total)
