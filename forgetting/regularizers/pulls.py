"""The penalty's pull on the weights without autograd: as numbers, into the gradients, or as a proximal step."""

from __future__ import annotations

import torch
from torch import Tensor

from forgetting.parameters import Parameters
from forgetting.regularizers import fused
from forgetting.regularizers.blocks import Held, held
from forgetting.regularizers.consolidated import Consolidated, moved_to
from forgetting.regularizers.differentiable import product
from forgetting.regularizers.steps import Step, add_to_gradients, move_back, optimized, proximal_factors


def pull(state: Consolidated, live: Parameters, strength: float) -> Parameters:
    """λ·A(θ−μ) by name, in float32 or better."""
    items = held(state, live)
    with torch.no_grad():
        if items is None:
            return {name: part.mul_(strength) for name, part in product(state, live)[1].items()}
        _, gradients = fused.evaluate(items, strength, [item.dtype for item in items])
        return {name: part for name, part in zip(state.curvature.names(), gradients, strict=True) if part is not None}


def add_pull(step: Step, state: Consolidated, live: Parameters, strength: float) -> None:
    """Add λ·A(θ−μ) to the gradients of the parameters that an optimizer moves, in one pass and in their place."""
    items = held(state, live)
    if items is None:
        add_to_gradients(step, live, pull(state, live, strength))
        return
    mine = optimized(step.optimizer)
    direct: list[tuple[Held, Tensor]] = []
    others: list[Held] = []
    for item in items:
        weight = item.weight
        if id(weight) in mine and weight.requires_grad:
            if weight.grad is None:
                weight.grad = torch.zeros_like(weight)
            if item.fits(weight.grad):
                direct.append((item, weight.grad))
            else:
                others.append(item)
    fused.add([item for item, _ in direct], strength, step.scale, [gradient for _, gradient in direct])
    for item in others:
        _, (found,) = fused.evaluate([item], strength, [item.dtype])
        if found is not None:
            add_to_gradients(step, {"": item.weight}, {"": found})


def step_back(step: Step, state: Consolidated, live: Parameters, strength: float) -> None:
    """θ ← θ − aA(I+aA)⁻¹(θ−μ), with the factor a of each parameter."""
    factors = proximal_factors(step.optimizer, live, strength)
    items = held(state, live)
    if items is None:
        near = moved_to(state, live)
        delta = {name: live[name].detach() - near.anchor[name] for name in near.curvature.names()}
        move_back(step, live, near.curvature.retract(delta, factors), factors)
        return
    moving = [(item, factors[name]) for name, item in zip(state.curvature.names(), items, strict=True)
              if isinstance(factors[name], Tensor) or factors[name] != 0]
    fused.retract([item for item, _ in moving], [factor for _, factor in moving], step.skipped)
