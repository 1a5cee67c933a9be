"""What all rehearsal has in common: a memory, and a loss on what is drawn from it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from forgetting.curvature import Curvature
from forgetting.fisher.batches import default_forward, tensors, unwrap
from forgetting.regularizers.base import Regularizer
from forgetting.rehearsal.arrivals import named_columns
from forgetting.rehearsal.competing import among, cross_entropy, mask_of
from forgetting.rehearsal.draws import own_randomness
from forgetting.rehearsal.memory import Drawn, Memory

DEFAULT_SHARE = 0.05


class Rehearsal(Regularizer):
    """A regularizer that remembers examples: ``loss + rehearsal.penalty(model, inputs)``.

    ``consolidate(model, data, outputs=…)`` chooses examples of the task just learned and keeps them; ``penalty`` draws
    some, shows them to the model and returns strength × a loss on them. So rehearsal fits every loop that knows
    regularizers, and adds up with them.

    **What competes.** Targets count over all the model's logits. Unless told otherwise an example is scored among the
    columns that came with it as ``outputs`` (its own head, in task-incremental learning). In class-incremental
    learning the columns of the task at hand compete too: set :attr:`columns` to all columns seen so far when a task
    begins; or leave ``outputs`` out, and all logits that the model has compete.

    **The pass over drawn examples** runs in the modes in which the model is: norm layers in train mode normalise the
    drawn batch by itself and count it in their running statistics, as they do any training batch. Dropout draws from
    the memory's generator, so that the task's own batches see the same masks as without rehearsal.

    Args:
        strength: ≥ 0, the weight of the loss on drawn examples beside the task's.
        memory: where examples are kept; default: 5 % of each task's.
        batch: how many are drawn a step; ``None``: as many as ``penalty`` sees inputs.
        columns: among which every stored example is scored; ``None``: each among its own task's. Settable at any time.
        loss: ``(logits, targets) -> scalar``, the mean over examples; columns that do not compete are −∞ in the
            logits. ``None``: cross entropy.

    Raises:
        ValueError: for a batch below 1, or columns that leave out the target of a stored example.
    """

    modes: ClassVar[tuple[str, ...]] = ("loss",)
    labelled: ClassVar[bool] = True

    def __init__(self, strength: float, *, memory: Memory | None = None, batch: int | None = None,
                 columns: Iterable[int] | None = None,
                 loss: Callable[[Tensor, Tensor], Tensor] | None = None) -> None:
        super().__init__(strength)
        if batch is not None and (not isinstance(batch, int) or batch < 1):
            raise ValueError(f"batch is {batch!r}; it is how many examples are drawn a step, at least 1")
        self.memory = memory if memory is not None else Memory(share=DEFAULT_SHARE)
        self.batch = batch
        self.loss = loss
        self.columns = columns

    @property
    def columns(self) -> tuple[int, ...] | None:
        """Among which columns every stored example is scored now; ``None``: each among its own task's."""
        return self._columns

    @columns.setter
    def columns(self, value: Iterable[int] | None) -> None:
        columns = named_columns(value)
        if columns is not None:
            strangers = sorted(set(self.memory.classes.tolist()) - set(columns) - {-1})
            if strangers:
                raise ValueError(f"columns={list(columns)} leaves out the targets {strangers[:8]} of stored examples; "
                                 "name all columns seen so far")
        self._columns = columns

    def consolidate(
        self, model: nn.Module, data: Any = None, *, outputs: Any = None, curvature: Curvature | None = None
    ) -> None:
        """Choose among the examples of the task that the model has just learned, and keep them.

        Args:
            model: left as found.
            data: batches of the task, see :meth:`Memory.absorb`.
            outputs: the columns in which the task is scored; ``None`` for all.
            curvature: has no use here.

        Raises:
            ValueError: without data, or with a curvature.
        """
        if curvature is not None:
            raise ValueError(f"{type(self).__name__} remembers examples and takes no curvature=; give data=")
        if data is None:
            raise ValueError(f"{type(self).__name__} needs data= (batches of the task just learned) to remember some")
        self._remember(model, data, named_columns(outputs))
        self.columns = self._columns  # whose targets they must hold has grown

    def penalty(self, model: nn.Module, inputs: Any = None, outputs: Any = None) -> Tensor:
        """strength × the loss on drawn examples; a 0 without a graph while the memory is empty, and at strength 0.

        Args:
            model: in whatever modes it is trained in.
            inputs: the present batch's, which says how many examples to draw; not needed with ``batch=``.
            outputs: not read.

        Raises:
            ValueError: where neither ``inputs`` nor ``batch`` says how many.
        """
        if self.strength == 0 or not len(self.memory):
            return self.zero(model)
        return self.strength * self._term(model, self._size(inputs))

    @abstractmethod
    def _term(self, model: nn.Module, size: int) -> Tensor:
        """The loss on ``size`` drawn examples."""

    def _remember(self, model: nn.Module, data: Any, outputs: tuple[int, ...] | None) -> None:
        """Put a task into the memory."""
        self.memory.absorb(data, outputs=outputs, labelled=self.labelled)

    def _size(self, inputs: Any) -> int:
        """How many examples to draw."""
        if self.batch is not None:
            return self.batch
        leading = next(tensors(inputs), None)
        if leading is None:
            raise ValueError(f"{type(self).__name__} draws as many examples as the present batch has: call "
                             "penalty(model, inputs), or say batch=")
        return leading.shape[0]

    def _replayed(self, model: nn.Module, size: int) -> tuple[Tensor, Drawn]:
        """What the model says to drawn examples, in float32 or better, and the examples."""
        zero = self.zero(model)
        kind = next((parameter.dtype for parameter in model.parameters()), zero.dtype)
        drawn = self.memory.draw(size).to(zero.device, kind)
        with own_randomness(model, self.memory.random_seed()):
            logits = unwrap(default_forward(model, (drawn.inputs, drawn.targets))[0])
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return logits, drawn if drawn.answers is None else drawn._replace(answers=drawn.answers.to(logits))

    def _scored(self, model: nn.Module, size: int) -> Tensor:
        """The mean loss of drawn examples, each among the columns that compete for it."""
        logits, drawn = self._replayed(model, size)
        if drawn.targets is None:
            raise ValueError("the memory holds no targets: it was filled with unlabelled examples")
        sets = self.memory.outputs if self.columns is None else (self.columns,) * len(self.memory.outputs)
        loss = self.loss if self.loss is not None else cross_entropy
        return loss(among(logits, mask_of(sets, drawn, logits)), drawn.targets)

    def _learned(self) -> dict[str, Any]:
        return {"memory": self.memory.state_dict()}

    def _restore(self, learned: Mapping[str, Any]) -> None:
        self.memory.load_state_dict(learned["memory"])
