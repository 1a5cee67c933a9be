"""What learns, and what stays as it was."""

from __future__ import annotations

import torch
from torch import nn
from torch.optim import Optimizer

from forgetting import fisher, freezing
from forgetting.execution import used_and_unused
from forgetting.mixout import mixout
from forgetting.parameters import Handle
from forgetting.protocol import Method, Situation


def freeze(*, depth: int = 1, rate: float = 1.0) -> Method:
    """The first layers stay as they are."""

    def prepare(model: nn.Module, situation: Situation) -> Handle:
        return freezing.freeze(model, depth=depth, inputs=situation.inputs)

    return Method("freeze", {"depth": depth, "rate": rate}, prepare=prepare, rate=rate)


def linear_probe(*, rate: float = 1.0) -> Method:
    """Only the last layer learns."""

    def prepare(model: nn.Module, situation: Situation) -> Handle:
        last = used_and_unused(model, situation.inputs)[0][-1]
        return freezing.freeze(model, keep=lambda name: name in last)

    return Method("linear-probe", {"rate": rate}, prepare=prepare, rate=rate)


def gradual_unfreezing(*, rate: float = 1.0) -> Method:
    """The last layer learns first, and one layer more in each phase."""

    def follow(model: nn.Module, optimizer: Optimizer, situation: Situation) -> Handle:
        unfreezing = freezing.gradual_unfreezing(model, optimizer, steps=situation.steps, inputs=situation.inputs)
        return stepped(unfreezing, optimizer)

    return Method("gradual-unfreezing", {"rate": rate}, follow=follow, rate=rate)


def lp_ft(*, share: float = 0.5, rate: float = 1.0) -> Method:
    """The last layer alone for a share of the steps, then everything."""

    def follow(model: nn.Module, optimizer: Optimizer, situation: Situation) -> Handle:
        unfreezing = freezing.lp_ft(model, optimizer, situation.steps, share=share, inputs=situation.inputs)
        return stepped(unfreezing, optimizer)

    return Method("lp-ft", {"share": share, "rate": rate}, follow=follow, rate=rate)


def stepped(unfreezing: freezing.Unfreezing, optimizer: Optimizer) -> Handle:
    """Step it after each of the optimizer's steps, until both are taken off."""
    hook = optimizer.register_step_post_hook(lambda *_: unfreezing.step())

    def undo() -> None:
        hook.remove()
        unfreezing.remove()

    return Handle(undo)


def fisher_freezing(*, share: float = 0.5, labels: str = "exact", examples: int | None = None,
                    rate: float = 1.0) -> Method:
    """The layers that hold most of the Fisher information of the task before are frozen."""

    def prepare(model: nn.Module, situation: Situation) -> Handle:
        mixed = torch.Generator().manual_seed(situation.seed)  # with examples=, the first n are a sample
        data = situation.before[-1].train.batches(situation.batch, shuffle=True, generator=mixed)
        matrix = fisher.diagonal(model, data, labels=labels, examples=examples, outputs=situation.columns[-2])
        return freezing.freeze_important(model, matrix, share, inputs=situation.inputs)

    return Method("fisher-freezing", {"share": share, "labels": labels, "examples": examples, "rate": rate},
                  prepare=prepare, rate=rate)


def mixed_out(*, probability: float = 0.5) -> Method:
    """Mixout: weights are replaced by those before the task at random while they learn."""

    def prepare(model: nn.Module, situation: Situation) -> Handle:
        return mixout(model, probability, seed=situation.seed)

    return Method("mixout", {"probability": probability}, prepare=prepare)
