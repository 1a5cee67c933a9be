"""Convolutions of one, two and three dimensions, transposed ones too; groups, dilation, any stride."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from forgetting.fisher.rules.base import Call, Rule, widened

_FORWARD = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
_TRANSPOSED = ("input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation")


def _each(value: Any, dimensions: int) -> list[int]:
    return [value] * dimensions if isinstance(value, int) else list(value) * (dimensions if len(value) == 1 else 1)


class Conv(Rule):
    """The library's own weight gradient, one example at a time: exact for whatever torch can convolve."""

    name = "conv"
    signatures = {
        torch.conv1d: _FORWARD,
        torch.conv2d: _FORWARD,
        torch.conv3d: _FORWARD,
        torch.conv_transpose1d: _TRANSPOSED,
        torch.conv_transpose2d: _TRANSPOSED,
        torch.conv_transpose3d: _TRANSPOSED,
    }

    def supports(self, call: Call) -> bool:
        return call["input"].ndim == call["weight"].ndim and _padding(call) is not None

    def leading(self, call: Call) -> int:
        return 1

    def accumulate(self, source: Tensor, gradient: Tensor, call: Call, memory: int) -> dict[str, Tensor]:
        weight, dimensions = widened(call["weight"].detach()), call["weight"].ndim - 2
        transposed = self.signatures[call["function"]] is _TRANSPOSED
        geometry = (
            _each(call.get("stride", 1), dimensions),
            _padding(call),
            _each(call.get("dilation", 1), dimensions),
            transposed,
            _each(call.get("output_padding", 0), dimensions),
            call.get("groups", 1),
        )
        total = torch.zeros_like(weight)
        for x, g in zip(widened(source), widened(gradient), strict=True):
            _, product, _ = torch.ops.aten.convolution_backward(
                g.to(weight.dtype), x.to(weight.dtype), weight, None, *geometry, [False, True, False]
            )
            total.addcmul_(product, product)
        spatial = tuple(range(3, gradient.ndim))
        return {"weight": total, "bias": widened(gradient).sum((1, *spatial)).square().sum(0)}


def _padding(call: Call) -> list[int] | None:
    """The padding in numbers; None for an asymmetric one, which no single number says."""
    padding, dimensions = call.get("padding", 0), call["weight"].ndim - 2
    if padding == "valid":
        return [0] * dimensions
    if padding != "same":
        return _each(padding, dimensions)
    dilation = _each(call.get("dilation", 1), dimensions)
    total = [d * (size - 1) for d, size in zip(dilation, call["weight"].shape[2:], strict=True)]
    return None if any(t % 2 for t in total) else [t // 2 for t in total]
