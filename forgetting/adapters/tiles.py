"""½·Σ F∘(s·BA)² and its gradient by A and B, a few rows of the product at a time."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from forgetting.adapters.pairs import Pair

TILE = {"cpu": 2**18}  # entries of the product that are in memory at a time; as many as stay in a cache
_TILE = 2**24


def half_square(pair: Pair, importance: Tensor) -> Tensor:
    """½·Σ F∘(s·BA)², once differentiable by A and B, at full precision also under autocast.

    Args:
        pair: s, B and A.
        importance: F, of the weight's shape.
    """
    # What a compiler could make of the loop is the loop itself; it leaves it alone.
    run = torch.compiler.disable(_apply) if torch.compiler.is_compiling() else _apply
    return run(pair, importance)


def _apply(pair: Pair, importance: Tensor) -> Tensor:
    """The value as autograd sees it."""
    value: Tensor = _HalfSquare.apply(pair.up, pair.down, importance, pair.scale, pair.transposed)
    return value


class _HalfSquare(torch.autograd.Function):
    """The value in one pass over the product that also gives the gradients, which are as small as A and B."""

    @staticmethod
    def forward(ctx: Any, up: Tensor, down: Tensor, importance: Tensor, scale: float, transposed: bool) -> Tensor:
        dtype = torch.promote_types(up.dtype, torch.float32)
        b, a = up.flatten(1).to(dtype), down.flatten(1).to(dtype)
        matrix = importance.t() if transposed else importance.flatten(1)
        with torch.autocast(up.device.type, enabled=False):
            value, by_b, by_a = _summed(b, a, matrix, scale)
        ctx.save_for_backward(up, down, by_b.reshape(up.shape), by_a.reshape(down.shape))
        return value

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError("the penalty on a product is differentiable once, and this backward pass builds a graph "
                               "of its own (create_graph=True): leave the penalty out of it")
        up, down, by_up, by_down = ctx.saved_tensors  # raises where A or B was changed since
        return (gradient * by_up).to(up.dtype), (gradient * by_down).to(down.dtype), None, None, None


def _summed(b: Tensor, a: Tensor, importance: Tensor, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    """½s²·Σ F∘(BA)², s²·(F∘BA)Aᵀ and s²·Bᵀ(F∘BA)."""
    rows = max(TILE.get(b.device.type, _TILE) // max(a.shape[1], 1), 1)
    value, by_b, by_a = b.new_zeros(()), torch.empty_like(b), torch.zeros_like(a)
    for start in range(0, b.shape[0], rows):
        some = slice(start, start + rows)
        change = b[some] @ a
        weighted = change * importance[some].to(b.dtype)
        value += torch.dot(change.flatten(), weighted.flatten())
        by_b[some] = weighted @ a.t()
        by_a.addmm_(b[some].t(), weighted)
    square = scale * scale
    return value * (0.5 * square), by_b.mul_(square), by_a.mul_(square)
