"""Affine weights of normalisation layers: ∂/∂weight = Σ g·x̂, ∂/∂bias = Σ g over an example's positions."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection

import torch
from torch import Tensor
from torch.nn import functional

from forgetting.fisher.rules.base import Call, Sources, Whole, widened


class LayerNorm(Whole):
    """``F.layer_norm``: the weight has the shape of the last dimensions."""

    name = "layer_norm"
    signatures = {functional.layer_norm: ("input", "normalized_shape", "weight", "bias", "eps")}

    def supports(self, call: Call, slots: Collection[str]) -> bool:
        return True

    def leading(self, call: Call) -> int:
        return call["input"].ndim - len(call["normalized_shape"])

    def gradients(self, sources: Sources, gradient: Tensor, call: Call, slot: str) -> Tensor:
        over = tuple(range(1, gradient.ndim - len(call["normalized_shape"])))
        g = widened(gradient)
        return (g * self.normalised(widened(sources["input"]), call) if slot == "weight" else g).sum(over)

    def normalised(self, x: Tensor, call: Call) -> Tensor:
        """x̂ without the affine part."""
        return functional.layer_norm(x, list(call["normalized_shape"]), eps=call.get("eps", 1e-5))


class RMSNorm(LayerNorm):
    """``F.rms_norm``: a weight and no bias; ``eps=None`` means the rounding unit of the input's own dtype."""

    name = "rms_norm"
    signatures = dict.fromkeys((functional.rms_norm, torch.rms_norm), ("input", "normalized_shape", "weight", "eps"))
    slots = ("weight",)

    def normalised(self, x: Tensor, call: Call) -> Tensor:
        eps = call.get("eps")
        eps = torch.finfo(call["input"].dtype).eps if eps is None else eps
        return functional.rms_norm(x, list(call["normalized_shape"]), eps=eps)


class _ChannelNorm(Whole):
    """Norms whose weight runs over the channels, the dimension behind the examples."""

    def leading(self, call: Call) -> int:
        return 1

    def gradients(self, sources: Sources, gradient: Tensor, call: Call, slot: str) -> Tensor:
        g = widened(gradient)
        if slot == "bias":
            return g.sum((1, *range(3, g.ndim)))
        return self.weights(widened(sources["input"]), g, call)

    @abstractmethod
    def weights(self, x: Tensor, g: Tensor, call: Call) -> Tensor:
        """Σ g·x̂ of each example and channel; x and g [examples, repeats, channels, …]."""


class BatchNorm(_ChannelNorm):
    """``F.batch_norm`` by running statistics; by batch statistics it mixes examples and has no per-example gradient."""

    name = "batch_norm"
    signatures = {
        functional.batch_norm: (
            "input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps",
        )
    }

    def supports(self, call: Call, slots: Collection[str]) -> bool:
        return not call.get("training", False) and call["running_mean"] is not None

    def weights(self, x: Tensor, g: Tensor, call: Call) -> Tensor:
        """torch's own reduction, with every example's channels as channels of one."""
        images, channels = x.shape[0] * x.shape[1], x.shape[2]
        mean, variance = (widened(call[key]).repeat(images) for key in ("running_mean", "running_var"))
        flat = (1, images * channels, -1)
        _, sums, _ = torch.ops.aten.native_batch_norm_backward(
            g.reshape(flat), x.reshape(flat), torch.ones_like(mean), mean, variance, None, None, False,
            call.get("eps", 1e-5), [False, True, False])
        return sums.view(x.shape[:3]).sum(1)


class GroupNorm(_ChannelNorm):
    """``F.group_norm``."""

    name = "group_norm"
    signatures = {functional.group_norm: ("input", "num_groups", "weight", "bias", "eps")}

    def supports(self, call: Call, slots: Collection[str]) -> bool:
        return True

    def weights(self, x: Tensor, g: Tensor, call: Call) -> Tensor:
        normalised = functional.group_norm(x.flatten(0, 1), call["num_groups"], eps=call.get("eps", 1e-5))
        return (g * normalised.view(x.shape)).sum((1, *range(3, x.ndim)))
