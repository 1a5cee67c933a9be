"""What a task is learned with: its optimizer, its schedules, and what the method holds fast meanwhile."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from forgetting.norms import still
from forgetting.protocol.method import Method, Schedule, Situation
from forgetting.protocol.recipe import OPTIMIZERS, Recipe
from forgetting.regularizers import Regularizer
from forgetting.rehearsal import Rehearsal

Moments = dict[str, dict[str, Any]]


def equipped(recipe: Recipe, model: nn.Module, regularizers: Mapping[str, Regularizer], situation: Situation,
             hold_still: bool, undo: contextlib.ExitStack) -> tuple[Optimizer, list[Schedule]]:
    """Optimizer and schedules of a task, with all that the method holds fast until ``undo``.

    The source is learned alike by all methods: their pieces act on the tasks after it. Only a regularizer listens
    from the beginning.

    Args:
        recipe: whose optimizer and method they are.
        model: will be trained.
        regularizers: of the run, by their part's name.
        situation: of the task.
        hold_still: whether norm layers keep their running statistics.
        undo: takes what has to be undone after the task.
    """
    parts, later = recipe.method.parts, bool(situation.before)
    parameters, rate, schedules = None, recipe.rate, []
    if hold_still:
        undo.enter_context(still(model))
    if later:
        rate *= recipe.method.rate
        for part in parts:
            if part.prepare is not None:
                undo.enter_context(part.prepare(model, situation))
        makers = [part.groups for part in parts if part.groups is not None]
        parameters = makers[0](model, rate, situation) if makers else None
    optimizer = new_optimizer(recipe, parameters or model.parameters(), rate)
    if later:
        schedules = [part.schedule(optimizer, situation) for part in parts if part.schedule is not None]
        check_one_rate(recipe.method, schedules)
    alike = len({tuple(own) for own in situation.columns}) == 1
    for part in parts:
        if part.regularizer is not None:
            regularizer = regularizers[part.name]
            if isinstance(regularizer, Rehearsal):
                regularizer.columns = situation.columns[-1] if alike else None
            undo.enter_context(regularizer.attach(model, optimizer, mode=part.mode))
    for part in parts:  # after the regularizers: an average is of the weights that a proximal step leaves
        if part.follow is not None and later:
            undo.enter_context(part.follow(model, optimizer, situation))
    return optimizer, schedules


def check_one_rate(method: Method, schedules: Sequence[Schedule]) -> None:
    """Raise where several schedules set the rate."""
    if sum(isinstance(schedule, LRScheduler) for schedule in schedules) > 1:
        raise ValueError(f"method {method.name!r} has several schedules that set the rate; the last would undo the "
                         "others: combine methods of which one does")


def new_optimizer(recipe: Recipe, parameters: Any, rate: float) -> Optimizer:
    """An optimizer of the recipe's kind, of parameters that learn or groups of them.

    Adam's fused form takes half the time of the plain one, SGD's all of it.
    """
    own: dict[str, Any] = {"momentum": recipe.momentum} if recipe.optimizer == "sgd" else {}
    if recipe.optimizer in ("adam", "adamw"):
        own["fused"] = torch.device(recipe.device).type in ("cpu", "cuda")
    groups = [group for group in parameters if isinstance(group, dict) or group.requires_grad]
    return OPTIMIZERS[recipe.optimizer](groups, lr=rate, weight_decay=recipe.weight_decay, **own)


def remembered(optimizer: Optimizer, model: nn.Module) -> Moments:
    """What an optimizer knows of each parameter, by the parameter's name."""
    return {name: dict(optimizer.state[parameter]) for name, parameter in model.named_parameters()
            if parameter in optimizer.state}


def recall(optimizer: Optimizer, model: nn.Module, moments: Moments) -> None:
    """Give a new optimizer what another knew of the parameters that both hold."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    known = {number: moments[names[id(parameter)]] for number, parameter in enumerate(held)
             if names.get(id(parameter)) in moments}
    optimizer.load_state_dict({**optimizer.state_dict(), "state": known})
