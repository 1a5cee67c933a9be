"""Penalties that some published code weighs by the number of tasks behind: to reproduce figures, not to use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from forgetting.curvature import Curvature
from forgetting.protocol import Method, Situation
from forgetting.regularizers import LwF, Regularizer
from forgetting.rehearsal import Memory, Replay


class Growing(Regularizer):
    """A penalty whose strength grows with the number of tasks behind: strength · tasks^power.

    Args:
        inner: the penalty; its strength is that after the first task.
        power: of the number of tasks.
    """

    listens = False

    def __init__(self, inner: Regularizer, power: float) -> None:
        super().__init__(inner.strength)
        self.inner, self.power, self.tasks = inner, power, 0

    def consolidate(self, model: nn.Module, data: Any = None, *, outputs: Any = None,
                    curvature: Curvature | None = None) -> None:
        self.inner.consolidate(model, data, outputs=outputs, curvature=curvature)
        self.tasks += 1
        self.inner.strength = self.strength * self.tasks**self.power

    def penalty(self, model: nn.Module, inputs: Any = None, outputs: Any = None) -> Tensor:
        return self.inner.penalty(model, inputs, outputs)

    def _learned(self) -> dict[str, Any]:
        return {"tasks": self.tasks, "inner": self.inner.state_dict()}

    def _restore(self, learned: Mapping[str, Any]) -> None:
        self.tasks = learned["tasks"]
        self.inner.load_state_dict(learned["inner"])
        self.inner.strength = self.strength * self.tasks**self.power


def growing_lwf(strength: float, power: float) -> Method:
    """LwF whose strength grows with the tasks behind."""
    return Method("growing-lwf", {"strength": strength, "power": power},
                  regularizer=lambda: Growing(LwF(strength), power))


class SeenLwF(LwF):
    """LwF over the classes that consolidated data brought so far, in one softmax, whatever else the model could say."""

    def _absorb(self, model: nn.Module, data: Any, outputs: Any) -> None:
        before = [columns for columns in self._columns if columns is not None]
        self._columns = [torch.cat([*before, *(targets.cpu() for _, targets in data)]).unique()]


def slowing_lwf(strength: float, power: float) -> Method:
    """LwF over seen classes, growing likewise, with a loss divided by the number of the task: its rate falls as 1/t."""
    def schedule(optimizer: Optimizer, situation: Situation) -> LambdaLR:
        return LambdaLR(optimizer, lambda _: 1 / (len(situation.before) + 1))

    return Method("slowing-seen-lwf", {"strength": strength, "power": power},
                  regularizer=lambda: Growing(SeenLwF(strength), power), schedule=schedule)


def growing_replay(share: float, power: float) -> Method:
    """Replay of a share of each task's examples, as many a class, weighed by the tasks behind to a power."""
    return Method("growing-replay", {"share": share, "power": power},
                  regularizer=lambda: Growing(Replay(1.0, memory=Memory(share, policy="balanced")), power))
