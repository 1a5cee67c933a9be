"""Adapters: what learns in place of the weights."""

from __future__ import annotations

from typing import Any

from torch import nn

from forgetting.adapters import ProductEWC
from forgetting.adapters import lora as adapted
from forgetting.execution import used_and_unused
from forgetting.parameters import Handle
from forgetting.protocol import Method, Situation


def lora(*, rank: int = 8, scale: float = 1.0, rate: float = 1.0) -> Method:
    """Low-rank adapters learn in place of the weights, and the last layer whole; merged after each task."""

    def prepare(model: nn.Module, situation: Situation) -> Handle:
        last = set(used_and_unused(model, situation.inputs)[0][-1])
        return adapted(model, rank=rank, scale=scale, head=last.__contains__, inputs=situation.inputs,
                       seed=situation.seed)

    return Method("lora", {"rank": rank, "scale": scale, "rate": rate}, prepare=prepare, rate=rate)


def lora_ewc(*, strength: float = 30.0, rank: int = 8, scale: float = 1.0, labels: str = "exact", decay: float = 1.0,
             examples: int | None = None, rate: float = 1.0) -> Method:
    """LoRA on all layers, with EWC's pull on the weights that the adapters make."""
    own: dict[str, Any] = {"strength": strength, "labels": labels, "decay": decay, "examples": examples}
    ProductEWC(**own)

    def prepare(model: nn.Module, situation: Situation) -> Handle:
        # the last too: the penalty holds adapters only
        return adapted(model, rank=rank, scale=scale, modules="*", seed=situation.seed)

    return Method("lora-ewc", {**own, "rank": rank, "scale": scale, "rate": rate},
                  regularizer=lambda: ProductEWC(**own), prepare=prepare, rate=rate)
