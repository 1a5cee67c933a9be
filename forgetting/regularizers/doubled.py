"""Says so where a pull counts twice: by hooks at the optimizer's step, and as a term of the loss."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary, WeakSet, ref

import torch
from torch import Tensor
from torch.optim import Optimizer

from forgetting.parameters import Handle, Parameters

if TYPE_CHECKING:
    from forgetting.regularizers.base import Regularizer

_pulled: WeakKeyDictionary[Regularizer, WeakSet[Optimizer]] = WeakKeyDictionary()
_told: WeakSet[Regularizer] = WeakSet()


def pulling(regularizer: Regularizer, optimizer: Optimizer) -> Handle:
    """Remember that a regularizer's pull comes with an optimizer's steps, until the handle is removed."""
    optimizers = _pulled.setdefault(regularizer, WeakSet())
    optimizers.add(optimizer)
    _told.discard(regularizer)
    held = ref(optimizer)

    def forget() -> None:
        found = held()
        if found is not None:
            optimizers.discard(found)

    return Handle(forget)


def look_out(regularizer: Regularizer, penalty: Tensor, live: Parameters) -> None:
    """Warn, once an attachment, where a penalty whose pull comes with the steps is also summed into the gradients."""
    if not _pulled.get(regularizer) or regularizer in _told:
        return
    weight = next((weight for weight in live.values() if weight.requires_grad), None)
    if weight is not None:
        when_summed(penalty, weight, lambda: _tell(regularizer))


def when_summed(penalty: Tensor, weight: Tensor, then: Callable[[], None]) -> None:
    """Call back after each backward pass that sums a penalty's gradient, not times 0, into a weight's ``.grad``.

    ``torch.autograd.grad``, which hands the gradient over instead, is none.
    """

    def passed(gradient: Tensor) -> None:
        before = _stamp(weight)

        def ended() -> None:
            after = _stamp(weight)
            if (after[0] is not before[0] or after[1] != before[1]) and gradient.item() != 0:
                then()

        torch.autograd.Variable._execution_engine.queue_callback(ended)

    penalty.register_hook(passed)


def _stamp(weight: Tensor) -> tuple[Tensor | None, int]:
    """What changes when something is added to a weight's gradient; held, so that no other can take its place."""
    return weight.grad, 0 if weight.grad is None else weight.grad._version


def _tell(regularizer: Regularizer) -> None:
    if regularizer not in _told:
        _told.add(regularizer)
        warnings.warn(
            f"the pull of this {type(regularizer).__name__} counts twice: it is attached in a mode that pulls at the "
            "optimizer's steps, and its penalty was in the loss, too. Leave penalty(model) out of the loss, or attach "
            "it with mode='loss'",
            stacklevel=2,
        )
