"""Look-ups: a token's gradient is the sum over the places where the example uses it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from forgetting.fisher.rules.base import Call, Rule, widened


class Embedding(Rule):
    """``F.embedding``: sum an example's gradients token by token, square, add the examples up."""

    name = "embedding"
    signatures = {
        functional.embedding: (
            "input", "weight", "padding_idx", "max_norm", "norm_type", "scale_grad_by_freq", "sparse",
        )
    }
    slots = ("weight",)

    def supports(self, call: Call) -> bool:
        return call.get("max_norm") is None and not call.get("scale_grad_by_freq", False)

    def leading(self, call: Call) -> int:
        return call["input"].ndim

    def accumulate(self, source: Tensor, gradient: Tensor, call: Call, memory: int) -> dict[str, Tensor]:
        rows, width = call["weight"].shape
        tokens, g = source.reshape(len(source), -1), widened(gradient).reshape(-1, width)
        example = torch.arange(len(tokens), device=tokens.device).unsqueeze(1)
        pairs, where = torch.unique((example * rows + tokens).reshape(-1), return_inverse=True)
        summed = g.new_zeros(len(pairs), width).index_add_(0, where, g)
        total = g.new_zeros(rows, width).index_add_(0, pairs % rows, summed.square_())
        if call.get("padding_idx") is not None:
            total[call["padding_idx"]] = 0
        return {"weight": total}
