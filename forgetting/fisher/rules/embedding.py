"""Look-ups: a token's gradient is the sum over the places where the example uses it."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor
from torch.nn import functional

from forgetting.fisher import kernels
from forgetting.fisher.rules.base import Call, Rule, Sources, Totals, powered, tile, widened


def products(tokens: Tensor, g: Tensor, total: Tensor, padding_idx: int | None, power: int, memory: int) -> None:
    """total[v] += Σₙ |Σ over t with tokens[n,t] = v of g[n,t]|^power; tokens [n, t], g [n, t, d], total [rows, d]."""
    for start in range(0, len(g), step := tile(memory, g[0].numel(), g)):
        part = slice(start, start + step)
        rows, summed = segments(tokens[part], g[part], len(total), padding_idx)
        total.index_add_(0, rows, powered(summed, power))


def segments(tokens: Tensor, g: Tensor, rows: int, padding_idx: int | None) -> tuple[Tensor, Tensor]:
    """The rows that each example uses, and its gradient there: [pairs], [pairs, d]."""
    example = torch.arange(len(tokens), device=tokens.device).unsqueeze(1)
    pairs, where = torch.unique((example * rows + tokens).reshape(-1), return_inverse=True)
    summed = g.new_zeros(len(pairs), g.shape[-1]).index_add_(0, where, g.reshape(-1, g.shape[-1]))
    used = pairs % rows
    return used, summed if padding_idx is None else summed.mul_((used != padding_idx % rows).unsqueeze(1))


class Embedding(Rule):
    """``F.embedding``: sum an example's gradients token by token, raise to the power, add the examples up."""

    name = "embedding"
    signatures = {
        functional.embedding: (
            "input", "weight", "padding_idx", "max_norm", "norm_type", "scale_grad_by_freq", "sparse",
        )
    }
    slots = ("weight",)

    def supports(self, call: Call, slots: Collection[str]) -> bool:
        return call.get("max_norm") is None and not call.get("scale_grad_by_freq", False)

    def leading(self, call: Call) -> int:
        return call["input"].ndim

    def accumulate(self, sources: Sources, gradient: Tensor, call: Call, totals: Totals, power: int,
                   memory: int) -> None:
        tokens, g = self.flat(sources, gradient)
        if kernels.serve(g):
            from forgetting.fisher.kernels import embedding

            embedding.products(tokens, g, totals["weight"], call.get("padding_idx"), power, memory)
        else:
            products(tokens, widened(g), totals["weight"], call.get("padding_idx"), power, memory)

    def add_gradients(self, sources: Sources, gradient: Tensor, call: Call, slot: str, out: Tensor) -> None:
        tokens, g = self.flat(sources, widened(gradient))
        if call.get("padding_idx") is not None:
            g = g * (tokens != call["padding_idx"] % out.shape[1]).unsqueeze(-1)
        rows = torch.arange(len(tokens), device=tokens.device).unsqueeze(1) * out.shape[1] + tokens
        out.view(-1, out.shape[-1]).index_add_(0, rows.reshape(-1), g.reshape(-1, g.shape[-1]))

    @staticmethod
    def flat(sources: Sources, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """tokens [examples, positions] and gradients [examples, positions, width]."""
        tokens = sources["input"].reshape(len(gradient), -1)
        return tokens, gradient.reshape(*tokens.shape, gradient.shape[-1])
