"""At which rate each layer learns, and when."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from forgetting import rates
from forgetting.protocol import Method, Situation


def layerwise_decay(*, decay: float = 0.5) -> Method:
    """Rates that fall by a factor a layer, from the output to the input."""

    def groups(model: nn.Module, rate: float, situation: Situation) -> list[dict[str, Any]]:
        return rates.layerwise_decay(model, rate, decay, inputs=situation.inputs)

    return Method("layerwise-decay", {"decay": decay}, groups=groups)


def slanted_triangular(*, cut: float = 0.1, ratio: float = 32.0, rate: float = 1.0) -> Method:
    """A rate that rises fast and falls slowly."""

    def schedule(optimizer: Optimizer, situation: Situation) -> LRScheduler:
        return rates.slanted_triangular(optimizer, situation.steps, cut=cut, ratio=ratio)

    return Method("slanted-triangular", {"cut": cut, "ratio": ratio, "rate": rate}, schedule=schedule, rate=rate)


def warmup_stable_decay(*, warmup: float = 0.02, decay: float = 0.1, floor: float = 0.1, rate: float = 1.0) -> Method:
    """A short rise of the rate, a constant stage, a short fall; warm-up and decay as parts of the steps."""

    def schedule(optimizer: Optimizer, situation: Situation) -> LRScheduler:
        return rates.warmup_stable_decay(optimizer, situation.steps, warmup=int(warmup * situation.steps),
                                         decay=round(decay * situation.steps), floor=floor)

    settings = {"warmup": warmup, "decay": decay, "floor": floor, "rate": rate}
    return Method("warmup-stable-decay", settings, schedule=schedule, rate=rate)


def rewarm(*, warmup: float = 0.01, floor: float = 0.1, rate: float = 1.0) -> Method:
    """The rate is warmed up again at each task's start, and decays again; the warm-up is a part of the steps."""

    def schedule(optimizer: Optimizer, situation: Situation) -> LRScheduler:
        return rates.warmup_cosine(optimizer, situation.steps, warmup=int(warmup * situation.steps), floor=floor)

    return Method("rewarm", {"warmup": warmup, "floor": floor, "rate": rate}, schedule=schedule, rate=rate)


def cosine(*, floor: float = 0.0, rate: float = 1.0) -> Method:
    """The rate falls along half a cosine in each task."""

    def schedule(optimizer: Optimizer, situation: Situation) -> LRScheduler:
        return rates.warmup_cosine(optimizer, situation.steps, warmup=0, floor=floor)

    return Method("cosine", {"floor": floor, "rate": rate}, schedule=schedule, rate=rate)
