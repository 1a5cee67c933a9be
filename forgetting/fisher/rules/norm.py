"""Affine weights of normalisation layers: ∂/∂weight = Σ g·x̂, ∂/∂bias = Σ g over an example's positions."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor
from torch.nn import functional

from forgetting.fisher.rules.base import Call, Rule, widened


def _sums(normalised: Tensor, gradient: Tensor, over: tuple[int, ...]) -> dict[str, Tensor]:
    g = widened(gradient)
    return {
        "weight": (g * normalised).sum(over).square().sum(0),
        "bias": g.sum(over).square().sum(0),
    }


class LayerNorm(Rule):
    """``F.layer_norm``: the weight has the shape of the last dimensions."""

    name = "layer_norm"
    signatures = {functional.layer_norm: ("input", "normalized_shape", "weight", "bias", "eps")}

    def supports(self, call: Call) -> bool:
        return True

    def leading(self, call: Call) -> int:
        return call["input"].ndim - len(call["normalized_shape"])

    def accumulate(self, source: Tensor, gradient: Tensor, call: Call, memory: int) -> dict[str, Tensor]:
        shape = list(call["normalized_shape"])
        normalised = functional.layer_norm(widened(source), shape, eps=call.get("eps", 1e-5))
        return _sums(normalised, gradient, tuple(range(1, source.ndim - len(shape))))


class _ChannelNorm(Rule):
    """Norms whose weight runs over the channels, the dimension behind the examples."""

    def leading(self, call: Call) -> int:
        return 1

    def accumulate(self, source: Tensor, gradient: Tensor, call: Call, memory: int) -> dict[str, Tensor]:
        x = widened(source)
        normalised = self.normalised(x.flatten(0, 1), call).reshape(x.shape)
        return _sums(normalised, gradient, (1, *range(3, x.ndim)))

    @abstractmethod
    def normalised(self, x: Tensor, call: Call) -> Tensor:
        """x̂ without the affine part."""


class BatchNorm(_ChannelNorm):
    """``F.batch_norm`` by running statistics; by batch statistics it mixes examples and has no per-example gradient."""

    name = "batch_norm"
    signatures = {
        functional.batch_norm: (
            "input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps",
        )
    }

    def supports(self, call: Call) -> bool:
        return not call.get("training", False) and call["running_mean"] is not None

    def normalised(self, x: Tensor, call: Call) -> Tensor:
        shape = (1, -1, *[1] * (x.ndim - 2))
        mean, variance = widened(call["running_mean"]), widened(call["running_var"])
        return (x - mean.view(shape)) * torch.rsqrt(variance + call.get("eps", 1e-5)).view(shape)


class GroupNorm(_ChannelNorm):
    """``F.group_norm``."""

    name = "group_norm"
    signatures = {functional.group_norm: ("input", "num_groups", "weight", "bias", "eps")}

    def supports(self, call: Call) -> bool:
        return True

    def normalised(self, x: Tensor, call: Call) -> Tensor:
        return functional.group_norm(x, call["num_groups"], eps=call.get("eps", 1e-5))
