"""Linear maps: y = xWᵀ + b, and ``addmm`` as GPT-2's Conv1D uses it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from forgetting.fisher.rules.base import Call, Rule, tile, widened


def squared_products(x: Tensor, g: Tensor, memory: int) -> Tensor:
    """Σₙ (Σₜ g[n,t,o]·x[n,t,i])², [out, in]; x [n, t, in], g [n, t, out]."""
    if x.shape[1] == 1:
        return g[:, 0].square().T @ x[:, 0].square()
    total = x.new_zeros(g.shape[-1], x.shape[-1])
    step = tile(memory, total.numel(), x)
    for start in range(0, len(x), step):
        products = torch.bmm(g[start : start + step].transpose(1, 2), x[start : start + step])
        total += products.square_().sum(0)
    return total


class Linear(Rule):
    """``F.linear``: one position → a product of squares; several → one weight gradient an example, in tiles."""

    name = "linear"
    signatures = {functional.linear: ("input", "weight", "bias")}

    def supports(self, call: Call) -> bool:
        return call["input"].ndim >= 2

    def leading(self, call: Call) -> int:
        return call["input"].ndim - 1

    def accumulate(self, source: Tensor, gradient: Tensor, call: Call, memory: int) -> dict[str, Tensor]:
        x = widened(source).reshape(len(source), -1, source.shape[-1])
        g = widened(gradient).reshape(len(gradient), -1, gradient.shape[-1])
        return {"weight": squared_products(x, g, memory), "bias": g.sum(1).square().sum(0)}


class Addmm(Linear):
    """``torch.addmm(bias, x, weight)``: a linear map with the weight stored the other way round."""

    name = "addmm"
    signatures = {torch.addmm: ("bias", "input", "weight")}

    def supports(self, call: Call) -> bool:
        named = {"bias", "input", "weight"} <= call.keys()
        return named and call.get("beta", 1) == 1 and call.get("alpha", 1) == 1 and call["bias"].ndim == 1

    def accumulate(self, source: Tensor, gradient: Tensor, call: Call, memory: int) -> dict[str, Tensor]:
        sums = super().accumulate(source, gradient, call, memory)
        return {"weight": sums["weight"].T, "bias": sums["bias"]}
