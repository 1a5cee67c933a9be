"""The penalty as autograd sees it: its gradient is known with its value, and handed over when it is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from forgetting.curvature.shards import sharded
from forgetting.parameters import Parameters
from forgetting.regularizers import fused
from forgetting.regularizers.blocks import held
from forgetting.regularizers.consolidated import Consolidated, moved_to


def value(state: Consolidated, live: Parameters, strength: float) -> Tensor:
    """½·λ·(θ−μ)ᵀA(θ−μ), differentiable twice, at full precision also under autocast."""
    # What a compiler could make of the pass is the pass itself; it leaves it alone.
    run = torch.compiler.disable(_value) if torch.compiler.is_compiling() else _value
    return run(state, live, strength)


def _value(state: Consolidated, live: Parameters, strength: float) -> Tensor:
    """The penalty, with or without a graph."""
    names = state.curvature.names()
    return _Quadratic.apply(state, names, strength, torch.is_grad_enabled(), *(live[name] for name in names))


class _Quadratic(torch.autograd.Function):
    """½·λ·(θ−μ)ᵀA(θ−μ) in one pass that also gives the gradient, which is kept until it is asked for.

    Of weights in 16 bits it is not kept but computed when it is asked for, so that a loss scale comes before rounding.
    """

    @staticmethod
    def forward(ctx: Any, state: Consolidated, names: Sequence[str], strength: float, recorded: bool,
                *weights: Tensor) -> Tensor:
        ctx.state, ctx.names, ctx.strength, ctx.gradients = state, names, strength, [None] * len(weights)
        ctx.save_for_backward(*weights)
        live = dict(zip(names, weights, strict=True))
        items = held(state, live)
        with _full_precision(weights):
            if items is None:
                delta, products = product(state, live)
                sums = [delta[name].mul_(products[name]).sum() for name in names]
                return torch.stack([part.to(sums[0].device, torch.float64) for part in sums]).sum() * (0.5 * strength)
            kept = [recorded and needed and torch.finfo(weight.dtype).bits >= 32
                    for needed, weight in zip(ctx.needs_input_grad[4:], weights, strict=True)]
            dtypes = [weight.dtype if keep else None for keep, weight in zip(kept, weights, strict=True)]
            total, ctx.gradients = fused.evaluate(items, strength, dtypes)
            return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        weights, needed = ctx.saved_tensors, ctx.needs_input_grad[4:]  # the first raises where a weight was changed
        live = dict(zip(ctx.names, weights, strict=True))
        items = held(ctx.state, live)
        with _full_precision(weights):
            if torch.is_grad_enabled() or items is None:
                _, products = product(ctx.state, live)
                scales = [ctx.strength * gradient.to(weight.device) for weight in weights]
                parts = [(products[name] * scale).to(weight.dtype) if need else None for name, scale, weight, need
                         in zip(ctx.names, scales, weights, needed, strict=True)]
                return (None, None, None, None, *parts)
            ready, ctx.gradients = ctx.gradients, [None] * len(weights)  # handed over once, then computed again
            late = [item.dtype if need and part is None else None
                    for item, need, part in zip(items, needed, ready, strict=True)]
            if any(dtype is not None for dtype in late):
                _, again = fused.evaluate(items, ctx.strength, late)
                ready = [part if part is not None else other for part, other in zip(ready, again, strict=True)]
            _scale([part for part in ready if part is not None], gradient)
            return (None, None, None, None, *(part.to(weight.dtype) if part is not None else None
                                              for part, weight in zip(ready, weights, strict=True)))


def _scale(parts: list[Tensor], gradient: Tensor) -> None:
    """Multiply by what comes back from the loss: 1, more often than not."""
    if gradient.device.type == "cpu":
        factor = gradient.item()
        if factor != 1:
            torch._foreach_mul_(parts, factor)
        return
    for device in {part.device for part in parts}:
        torch._foreach_mul_([part for part in parts if part.device == device], gradient.to(device))


def _full_precision(weights: Sequence[Tensor]) -> torch.autocast:
    """No autocast here."""
    return torch.autocast(weights[0].device.type if weights else "cpu", enabled=False)


def product(state: Consolidated, live: Parameters) -> tuple[Parameters, Parameters]:
    """θ−μ and A(θ−μ) by the matrix's own product: for matrices that are not diagonal, and for sharded weights."""
    near = moved_to(state, live)
    delta = {name: live[name] - near.anchor[name] for name in near.curvature.names()}
    if len({sharded(part) for part in delta.values()}) < 2:
        return delta, near.curvature.product(delta)
    # a model of which FSDP2 shards a part; torch multiplies no list that holds both
    return delta, {name: near.curvature.restricted([name]).product({name: part})[name] for name, part in delta.items()}
