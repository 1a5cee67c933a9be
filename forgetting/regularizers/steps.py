"""What happens at an optimizer's step: one dispatcher an optimizer, with a fixed order of stages.

1. ``listen``: path integrals read the task's gradient.
2. ``pull``: penalties add their closed-form gradient.
3. The optimizer steps.
4. ``proximal``: penalties move the weights back towards their anchors.
5. ``finish``: path integrals see where the whole step ended.

The order of registration does not matter between stages; within one it is the order in which actions run.

A step whose closure computes the gradients has none before it: then a trainer that knows when they are there says so
(:func:`announced`), and stages 1 and 2 run at that moment.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary, ref

import torch
from torch import Tensor
from torch.optim import SGD, Optimizer
from torch.utils.hooks import RemovableHandle

from forgetting.curvature.shards import sharded
from forgetting.parameters import Handle, Parameters

STAGES = ("listen", "pull", "proximal", "finish")


@dataclass(frozen=True)
class Step:
    """One step of an optimizer, as an action sees it.

    Args:
        optimizer: the one that steps.
        scale: every ``.grad`` is this many times too large (a fused optimizer under a ``GradScaler`` divides inside
            its own step: fault F19); ``None`` where gradients are true.
        skipped: a tensor that is above 0 where the optimizer leaves all weights alone (a gradient overflowed);
            ``None`` where it never does.
    """

    optimizer: Optimizer
    scale: Tensor | None = None
    skipped: Tensor | None = None


Action = Callable[[Step], None]
_dispatchers: WeakKeyDictionary[Optimizer, _Dispatcher] = WeakKeyDictionary()


def register(optimizer: Optimizer, owner: object, actions: Mapping[str, Action]) -> Handle:
    """Run an owner's actions, stage -> action, at every step of an optimizer, until the handle is removed.

    Raises:
        TypeError: where ``optimizer`` is not a torch optimizer, or a path would listen to shards.
        ValueError: where the owner is attached to it already (its pull would count twice), or for an unknown stage.
    """
    _checked(optimizer)
    unknown = set(actions) - set(STAGES)
    if unknown:
        raise ValueError(f"unknown stages {sorted(unknown)}: choose from {', '.join(STAGES)}")
    if "listen" in actions and any(sharded(weight) for group in optimizer.param_groups for weight in group["params"]):
        raise TypeError(f"{type(owner).__name__} listens to the steps, and the weights lie in shards (FSDP2, DTensor), "
                        "of which a path has no copies: use EWC, MAS or L2SP, or DistributedDataParallel")
    return _dispatchers.setdefault(optimizer, _Dispatcher()).add(optimizer, owner, dict(actions))


def announced(optimizer: Optimizer) -> Announced:
    """From now on somebody says when the gradients of a step are there, which may be inside the step (fault F18)."""
    _checked(optimizer)
    return Announced(_dispatchers.setdefault(optimizer, _Dispatcher()), optimizer)


def _checked(optimizer: object) -> None:
    """Raise for what is no optimizer, such as a wrapper around one, whose hooks would never run."""
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"attach takes a torch.optim.Optimizer, not a {type(optimizer).__name__}")


class _Dispatcher:
    """All that listens to one optimizer; it hangs on the optimizer only while somebody does."""

    def __init__(self) -> None:
        self._entries: list[tuple[object, dict[str, Action]]] = []
        self._hooks: list[RemovableHandle] = []
        self.announcers: list[Announced] = []
        self._heard: list[Announced] = []
        self._started = False

    def add(self, optimizer: Optimizer, owner: object, actions: dict[str, Action]) -> Handle:
        if any(known is owner for known, _ in self._entries):
            raise ValueError(
                f"this {type(owner).__name__} is attached to this optimizer already: its pull would count twice; "
                "remove the first handle before attaching again"
            )
        entry = (owner, actions)
        self._entries.append(entry)
        if not self._hooks:
            self._hooks = [
                optimizer.register_step_pre_hook(self._before),
                optimizer.register_step_post_hook(self._after),
            ]
        return Handle(lambda: self._drop(entry))

    def arrived(self, optimizer: Optimizer, announcer: Announced) -> None:
        """Run what comes before the step; whoever says the same of the same step is heard, and nothing runs again."""
        if announcer in self._heard:  # the step before was skipped
            self._heard = []
        if not self._heard:
            self._start(optimizer)
        self._heard.append(announcer)

    def silence(self, announcer: Announced) -> None:
        """Wait for it no longer; with nobody left to say more, forget a step that was left half done."""
        self.announcers.remove(announcer)
        if not self.announcers:
            self._heard, self._started = [], False

    def _drop(self, entry: tuple[object, dict[str, Action]]) -> None:
        self._entries = [known for known in self._entries if known is not entry]
        if not self._entries:
            while self._hooks:
                self._hooks.pop().remove()

    def _before(self, optimizer: Optimizer, args: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        reads = [owner for owner, actions in self._entries if "listen" in actions or "pull" in actions]
        # args[0] is the optimizer itself; whatever follows it can only be a closure.
        closure = any(value is not None for value in args[1:]) or keywords.get("closure") is not None
        if self._heard or (closure and self.announcers):
            self._started = bool(self._heard)
            return
        if reads and closure:
            raise RuntimeError(
                f"{type(reads[0]).__name__} works on gradients before the step, and a step with a closure computes "
                "them inside: call optimizer.step() without a closure, use mode='proximal', or add "
                "penalty(model) to the loss"
            )
        self._start(optimizer)

    def _start(self, optimizer: Optimizer) -> None:
        if any("pull" in actions or "proximal" in actions for _, actions in self._entries):
            minimising(optimizer)
        self._run(optimizer, "listen", "pull")
        self._started = True

    def _after(self, optimizer: Optimizer, args: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        self._heard, started, self._started = [], self._started, False
        missed = next((owner for owner, actions in self._entries if "listen" in actions or "pull" in actions), None)
        if self.announcers and missed is not None and not started:
            raise RuntimeError(
                f"the optimizer has stepped, and nobody said when its gradients were there, so {type(missed).__name__} "
                "neither saw nor changed them: let the trainer's own step run the closure"
            )
        self._run(optimizer, "proximal", "finish")

    def _run(self, optimizer: Optimizer, *stages: str) -> None:
        step = Step(optimizer, getattr(optimizer, "grad_scale", None), getattr(optimizer, "found_inf", None))
        with torch.no_grad():
            for stage in stages:
                for _, actions in self._entries:
                    if stage in actions:
                        actions[stage](step)


class Announced(Handle):
    """Says when the gradients of an optimizer's steps are there, until it is removed.

    Args:
        dispatcher: of the optimizer.
        optimizer: which steps.
    """

    def __init__(self, dispatcher: _Dispatcher, optimizer: Optimizer) -> None:
        super().__init__(lambda: dispatcher.silence(self))
        dispatcher.announcers.append(self)
        self._dispatcher, self._optimizer = dispatcher, ref(optimizer)  # which keeps the dispatcher, and so this

    def arrived(self) -> None:
        """Call this once a step, when its gradients are there: true ones, all micro-batches in them."""
        optimizer = self._optimizer()
        if optimizer is not None:
            self._dispatcher.arrived(optimizer, self)


def optimized(optimizer: Optimizer) -> dict[int, dict[str, Any]]:
    """The identity of each parameter that an optimizer moves -> its parameter group."""
    return {id(parameter): group for group in optimizer.param_groups for parameter in group["params"]}


def minimising(optimizer: Optimizer) -> None:
    """Raise where a group climbs: a penalty pulls weights back only where the loss is minimised."""
    _checked(optimizer)
    if any(group.get("maximize", False) for group in optimizer.param_groups):
        raise ValueError("the optimizer has maximize=True: minimise the negative objective instead, so that a "
                         "penalty pulls towards its anchor and not away from it")


def add_to_gradients(step: Step, live: Mapping[str, Tensor], pull: Parameters) -> None:
    """Add a pull to the gradients of the parameters that this optimizer moves; the others are left alone."""
    moved = optimized(step.optimizer)
    for name, value in pull.items():
        parameter = live[name]
        if id(parameter) not in moved or not parameter.requires_grad:
            continue
        if step.scale is not None:
            value = value * step.scale.to(value.device)
        if parameter.grad is None:
            parameter.grad = value.to(parameter.dtype)
        elif parameter.grad.layout != torch.strided:
            parameter.grad = value.to(parameter.dtype) + parameter.grad
        else:
            parameter.grad.add_(value)


def proximal_factors(optimizer: Optimizer, live: Mapping[str, Tensor], strength: float) -> dict[str, float | Tensor]:
    """The factor a of each parameter's proximal step: 0 for what the optimizer does not move.

    lr·strength; for SGD with momentum lr·strength·(1−dampening)/(1−momentum), the size of its steps at rest.
    """
    moved = optimized(optimizer)
    factors: dict[str, float | Tensor] = {}
    for name, parameter in live.items():
        group = moved.get(id(parameter))
        if group is None or not parameter.requires_grad:
            factors[name] = 0.0
            continue
        rest = strength * _step_at_rest(group) if isinstance(optimizer, SGD) else strength
        factors[name] = group["lr"] * rest
    return factors


def _step_at_rest(group: Mapping[str, Any]) -> float:
    """How many times its gradient an SGD step is long once the gradient no longer changes."""
    momentum = group["momentum"]
    if momentum == 0:
        return 1.0  # torch reads dampening only where there is momentum
    if not momentum < 1:
        raise ValueError(f"mode='proximal' needs a momentum below 1, not {momentum}")
    return (1 - group["dampening"]) / (1 - momentum)


def move_back(step: Step, live: Mapping[str, Tensor], moves: Parameters, factors: Mapping[str, float | Tensor]) -> None:
    """Subtract a proximal step's moves, computed in float32 or better, from the weights that have a factor."""
    for name, move in moves.items():
        if not isinstance(factors[name], Tensor) and factors[name] == 0:
            continue
        parameter = live[name]
        target = parameter.to(move.dtype) - move
        if step.skipped is not None:
            target = torch.where(step.skipped.to(parameter.device) > 0, parameter.to(move.dtype), target)
        parameter.copy_(target)
