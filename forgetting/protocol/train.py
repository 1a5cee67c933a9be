"""The loop, and what it trains on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

if TYPE_CHECKING:
    from forgetting.protocol.logbook import Logbook
    from forgetting.regularizers import Regularizer
    from forgetting.tasks import Examples


def logits_of(output: Any) -> Tensor:
    """A model's logits: its output, or the ``.logits`` of it."""
    return output if isinstance(output, Tensor) else output.logits


@dataclass(frozen=True)
class Lesson:
    """The examples of one training phase, and the logits columns in which each of them is scored.

    Args:
        inputs: [n, …].
        targets: int64, [n], numbers of ``columns``; global where ``columns`` is None.
        columns: int64, the columns that compete; None for all.
        owner: int64, [n], the row of ``allowed`` that holds for an example; None where all share ``columns``.
        allowed: bool, [parts, classes].
    """

    inputs: Tensor
    targets: Tensor
    columns: Tensor | None
    owner: Tensor | None = None
    allowed: Tensor | None = None

    def __len__(self) -> int:
        return len(self.targets)

    @staticmethod
    def of(parts: Sequence[Examples], columns: Sequence[Sequence[int]], classes: int) -> Lesson:
        """A lesson of several tasks' examples, each scored in its own task's columns."""
        inputs = torch.cat([part.inputs for part in parts]) if len(parts) > 1 else parts[0].inputs
        targets = torch.cat([part.targets for part in parts])
        device = inputs.device
        if len({tuple(own) for own in columns}) > 1:
            allowed = torch.zeros(len(parts), classes, dtype=torch.bool, device=device)
            for row, own in enumerate(columns):
                allowed[row, list(own)] = True
            owner = torch.cat([torch.full((len(part),), row, device=device) for row, part in enumerate(parts)])
            return Lesson(inputs, targets, None, owner, allowed)
        own = list(columns[0])
        if own == list(range(classes)):
            return Lesson(inputs, targets, None)
        place = torch.zeros(classes, dtype=torch.int64, device=device)
        place[own] = torch.arange(len(own), device=device)
        return Lesson(inputs, place[targets], torch.tensor(own, device=device))

    def loss(self, logits: Tensor, chosen: Tensor) -> Tensor:
        """Mean cross entropy of the chosen examples, each over its own columns."""
        if self.owner is not None and self.allowed is not None:
            logits = logits.masked_fill(~self.allowed[self.owner[chosen]], float("-inf"))
        elif self.columns is not None:
            logits = logits.index_select(1, self.columns)
        return functional.cross_entropy(logits, self.targets[chosen])

    def order(self, batch: int, epochs: int, generator: torch.Generator) -> Iterator[Tensor]:
        """Which examples each step sees: a new permutation an epoch, cut into batches, the last one short."""
        for _ in range(epochs):
            yield from torch.randperm(len(self), generator=generator).to(self.targets.device).split(batch)

    def steps(self, batch: int, epochs: int) -> int:
        """How many steps :meth:`order` gives."""
        return epochs * -(-len(self) // batch)


def train(
    model: nn.Module,
    lesson: Lesson,
    optimizer: Optimizer,
    order: Iterator[Tensor],
    logbook: Logbook,
    *,
    regularizer: Regularizer | None = None,
    schedule: LRScheduler | None = None,
) -> None:
    """The loop: forward, task loss, penalty, backward, step, schedule.

    Args:
        model: in train mode.
        lesson: what it learns.
        optimizer: of its parameters; a regularizer in gradient or proximal mode is attached to it.
        order: indices of the examples of each step.
        logbook: writes down losses, norms and accuracies.
        regularizer: whose penalty is a term of the loss; None where there is none, or where it acts by hooks.
        schedule: stepped after every step.
    """
    for chosen in order:
        inputs = lesson.inputs[chosen]
        logits = logits_of(model(inputs))
        task_loss = loss = lesson.loss(logits, chosen)
        if regularizer is not None:
            loss = task_loss + regularizer.penalty(model, inputs, logits)
        logbook.before(task_loss, loss, inputs, logits)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if schedule is not None:
            schedule.step()
        logbook.after()
