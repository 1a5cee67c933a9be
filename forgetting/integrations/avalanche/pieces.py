"""The pieces of a method on a strategy's live model and optimizer, for the length of one task."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from torch.optim import Optimizer

from forgetting.parameters import Handle
from forgetting.protocol import Method, Situation
from forgetting.protocol.equipment import check_one_rate
from forgetting.protocol.method import Schedule

OF_A_SCHEDULER = ("step", "_opt_called")  # what torch's schedulers put on an optimizer


def prepared(strategy: Any, method: Method, situation: Situation, undo: ExitStack) -> None:
    """Freezing and adapters; parameters that came or went are told to the strategy's optimizer, and again after it."""
    before = {id(parameter) for parameter in strategy.model.parameters()}
    told: list[bool] = []

    def forget() -> None:
        if told:
            strategy.make_optimizer(remove_params=True)

    undo.callback(forget)
    for part in method.parts:
        if part.prepare is not None:
            undo.enter_context(part.prepare(strategy.model, situation))
    if {id(parameter) for parameter in strategy.model.parameters()} != before:
        told.append(True)
        strategy.make_optimizer()


def scheduled(strategy: Any, method: Method, situation: Situation, undo: ExitStack) -> list[Schedule]:
    """The method's rates on the strategy's optimizer, which is as it was after the task; what is stepped after it."""
    groups = [part.groups for part in method.parts if part.groups is not None]
    schedules = [part.schedule for part in method.parts if part.schedule is not None]
    optimizer: Optimizer = strategy.optimizer
    if not groups and not schedules and method.rate == 1:
        return []
    undo.enter_context(as_found(optimizer))
    for group in optimizer.param_groups:
        group["lr"] = group["lr"] * method.rate
    if groups:
        if len(optimizer.param_groups) > 1:
            raise ValueError(f"method {method.name!r} brings its own parameter groups, and the strategy's optimizer "
                             f"has {len(optimizer.param_groups)} already: give it one")
        (common,) = [{name: value for name, value in group.items() if name not in ("params", "param_names")}
                     for group in optimizer.param_groups]
        made = groups[0](strategy.model, common["lr"], situation)
        optimizer.param_groups.clear()
        for group in made:
            optimizer.add_param_group({**common, **group})
    found = [schedule(optimizer, situation) for schedule in schedules]
    check_one_rate(method, found)
    return found


def as_found(optimizer: Optimizer) -> Handle:
    """Gives an optimizer's groups back as they are now, rates and all, and takes off what a scheduler put on it."""
    groups = [(group, dict(group)) for group in optimizer.param_groups]
    own = {name: vars(optimizer)[name] for name in OF_A_SCHEDULER if name in vars(optimizer)}

    def undo() -> None:
        for group, options in groups:
            group.clear()
            group.update(options)
        optimizer.param_groups[:] = [group for group, _ in groups]
        for name in OF_A_SCHEDULER:
            vars(optimizer).pop(name, None)
        vars(optimizer).update(own)

    return Handle(undo)
