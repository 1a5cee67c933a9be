"""One task of many runs, trained at once: weights stacked, each step one for all of them."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state
from torch.nn import functional

from forgetting.protocol.equipment import Moments, new_optimizer
from forgetting.protocol.learning import Learning
from forgetting.protocol.train import Lesson, logits_of
from forgetting.regularizers import QuadraticRegularizer


def counted(moments: Moments) -> int:
    """How many steps an optimizer's state is of; 0 where it counts none."""
    return max((int(own["step"]) for own in moments.values() if "step" in own), default=0)


def train_stacked(runs: Sequence[Learning], number: int, steps: int) -> Tensor:
    """The loop of :func:`forgetting.protocol.train.train` for all runs at once.

    Returns:
        Which runs' losses and weights stayed finite, bool [runs].
    """
    recipe, models = runs[0].recipe, [learning.model for learning in runs]
    stacked, _ = stack_module_state(models)
    weights = {name: nn.Parameter(value.detach().clone()) for name, value in stacked.items()}
    base = copy.deepcopy(models[0]).to("meta")
    forward = torch.func.vmap(lambda own, inputs: logits_of(functional_call(base, own, (inputs,))), randomness="error")
    optimizer = new_optimizer(recipe, weights.values(), recipe.rate)
    if recipe.keep_optimizer and all(learning.moments for learning in runs):
        _recall(optimizer, weights, [learning.moments for learning in runs])
    lessons = [learning.lesson(number) for learning in runs]
    scored, pulls = _Scored(lessons), _pulls(runs, weights)
    finite = torch.ones(len(runs), dtype=torch.bool, device=recipe.device)
    streams = [learning.batches(lesson, number, steps) for learning, lesson in zip(runs, lessons, strict=True)]
    for batch in zip(*streams, strict=True):
        inputs, targets = (torch.stack(part) for part in zip(*batch, strict=True))
        losses = scored.losses(forward(weights, inputs), targets)
        finite &= losses.detach().isfinite()
        optimizer.zero_grad()
        losses.sum().backward()
        with torch.no_grad():
            for weight, strengths, anchors in pulls:
                if weight.grad is not None:
                    weight.grad.addcmul_(strengths, weight - anchors)
        optimizer.step()
    with torch.no_grad():
        for place, model in enumerate(models):
            for name, weight in model.named_parameters():
                weight.copy_(weights[name][place])
    for weight in weights.values():
        finite &= weight.detach().flatten(1).isfinite().all(dim=1)
    if recipe.keep_optimizer:
        for place, learning in enumerate(runs):
            learning.moments = {
                name: {key: _own(value, weight, place) for key, value in optimizer.state[weight].items()}
                for name, weight in weights.items()}
    return finite


class _Scored:
    """The task losses of several lessons, each over its own columns.

    Args:
        lessons: with as many columns each.
    """

    def __init__(self, lessons: Sequence[Lesson]) -> None:
        columns = [lesson.columns for lesson in lessons if lesson.columns is not None]
        places = [lesson.place for lesson in lessons if lesson.place is not None]
        self.columns = torch.stack(columns) if columns else None
        self.places = torch.stack(places) if places else None

    def losses(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The mean cross entropy of each run, [runs]: logits [runs, examples, classes], targets [runs, examples]."""
        if self.columns is not None and self.places is not None:
            logits = logits.gather(2, self.columns[:, None].expand(-1, logits.shape[1], -1))
            targets = self.places.gather(1, targets)
        each = functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
        return each.view(targets.shape).mean(dim=1)


def _pulls(runs: Sequence[Learning], weights: Mapping[str, Tensor]) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Each weight that some penalty holds, with λA and μ of all runs, stacked; λA = 0 where none acts."""
    strengths = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    anchors = {name: weight.detach().clone() for name, weight in weights.items()}
    for place, learning in enumerate(runs):
        for regularizer in learning.regularizers.values():
            known = regularizer.consolidated if isinstance(regularizer, QuadraticRegularizer) else None
            if known is None:
                continue
            diagonal = known.curvature.product({name: torch.ones_like(own) for name, own in known.anchor.items()})
            for name, anchor in known.anchor.items():
                # Several pulls on one weight are one: Σ s_i (θ − μ_i) = s (θ − μ).
                own = regularizer.strength * diagonal[name]
                total = strengths[name][place] + own
                shift = torch.where(total > 0, own / total.where(total > 0, torch.ones_like(total)), 0)
                anchors[name][place] += shift * (anchor - anchors[name][place])
                strengths[name][place] = total
    return [(weight, strengths[name], anchors[name]) for name, weight in weights.items() if strengths[name].any()]


def _recall(optimizer: torch.optim.Optimizer, weights: Mapping[str, Tensor], moments: Sequence[Moments]) -> None:
    """Give a new optimizer what those of the single runs knew."""
    known = {}
    for number, name in enumerate(weights):
        each = [own[name] for own in moments]
        known[number] = {key: torch.stack([own[key] for own in each]) if value.dim() else value.clone()
                         for key, value in each[0].items()}
    optimizer.load_state_dict({**optimizer.state_dict(), "state": known})


def _own(value: Any, weight: Tensor, place: int) -> Any:
    """One run's share of what the optimizer knows of a stacked weight."""
    return value[place].clone() if isinstance(value, Tensor) and value.shape == weight.shape else value
