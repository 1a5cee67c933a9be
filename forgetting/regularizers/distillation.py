"""What distillation shares: old and new logits, whose rows count, which columns compete, and how far they are apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from forgetting.fisher.batches import unwrap
from forgetting.fisher.estimate import task_columns
from forgetting.regularizers.teacher import Past, Taught, called


@dataclass(frozen=True)
class Answers:
    """What a model said and says about a batch.

    Args:
        old: [rows, columns] logits of the model as it was, in float32 or better.
        new: [rows, columns] logits of the model as it is, likewise; a head that grew has more columns.
        tasks: each task's columns; ``None`` for all that the old model has.
    """

    old: Tensor
    new: Tensor
    tasks: list[Tensor | None]

    def pair(self, columns: Tensor | None) -> tuple[Tensor, Tensor]:
        """The old and the new logits of one task."""
        if columns is None:
            return self.old, self.new[:, : self.old.shape[-1]]
        return self.old.index_select(-1, columns), self.new.index_select(-1, columns)

    def cut(self, which: Tensor | None) -> Answers:
        """[…, columns] as [rows, columns], with the places that count; ``None`` for all."""
        old, new = (logits.flatten(0, -2) if which is None else logits[which] for logits in (self.old, self.new))
        return Answers(old, new, self.tasks)


class Distillation(Taught):
    """Holds what the model says, task by task, to what it said at the last ``consolidate``.

    Each task's columns are a softmax of their own. A set of columns that another contains is replaced by that: the
    same head for every task counts once, and of a head that grows the whole.
    """

    def __init__(self, strength: float) -> None:
        super().__init__(strength)
        self._columns: list[Tensor | None] = []

    def _absorb(self, model: nn.Module, data: Any, outputs: Any) -> None:
        self._columns = _joined(self._columns, task_columns(outputs))

    def _answers(self, past: Past, inputs: Any, outputs: Any) -> Answers:
        """What the model said and says, in the outputs' own shape; runs the model where outputs are not given."""
        old = _in_full(unwrap(past.run(inputs)))
        new = _in_full(unwrap(called(past.model, inputs) if outputs is None else outputs))
        if old.ndim not in (2, 3) or old.shape[:-1] != new.shape[:-1]:
            raise ValueError(
                f"the model gave {tuple(old.shape)} for these inputs at consolidate, and the outputs to compare have "
                f"the shape {tuple(new.shape)}: both must be [examples, columns] or [examples, positions, columns] of "
                "one batch"
            )
        answers = Answers(old, new, [None if known is None else known.to(old.device) for known in self._columns])
        for columns in self._columns:
            _check_width(columns, old.shape[-1], new.shape[-1])
        if past.gained:
            for columns in answers.tasks:
                past.check(old if columns is None else old.index_select(-1, columns), "consolidate again, or, for a "
                           "new head beside the old one, name the old one's columns with consolidate(outputs=…)")
        return answers

    def _learned(self) -> dict[str, Any]:
        return {**super()._learned(), "columns": {str(place): None if columns is None else columns.clone()
                                                  for place, columns in enumerate(self._columns)}}

    def _restore(self, learned: Mapping[str, Any]) -> None:
        super()._restore(learned)
        self._columns = [None if columns is None else columns.cpu().clone() for columns in learned["columns"].values()]


def divergence(old: Tensor, new: Tensor, *, direction: str = "forward") -> Tensor:
    """The sum over rows of KL(old ‖ new), or with ``"reverse"`` of KL(new ‖ old), between softmaxes of logits."""
    truth, guess = functional.log_softmax(old, -1), functional.log_softmax(new, -1)
    if direction == "reverse":
        truth, guess = guess, truth
    return functional.kl_div(guess, truth, reduction="sum", log_target=True)


def counted(inputs: Any, places: Tensor) -> Tensor | None:
    """Which places of [examples, positions, …] the ``attention_mask`` in a mapping counts; ``None`` for all.

    Raises:
        ValueError: where the mask has another shape than the positions.
    """
    if not isinstance(inputs, Mapping) or places.ndim != 3:
        return None
    decoding = any(key.startswith("decoder_") for key in inputs)  # the encoder's mask counts the encoder's positions
    mask = inputs.get("decoder_attention_mask" if decoding else "attention_mask")
    if mask is None:
        return None
    if mask.shape != places.shape[:2]:
        raise ValueError(f"the attention_mask has the shape {tuple(mask.shape)} and the model computes at the "
                         f"positions {tuple(places.shape[:2])}: it cannot say which of them count")
    return mask.to(places.device, torch.bool)


def _in_full(logits: Tensor) -> Tensor:
    """Logits in float32 or better; −∞, by which models leave columns out, as a number that a softmax takes for 0."""
    wide = torch.promote_types(logits.dtype, torch.float32)
    return logits.to(wide).clamp(min=torch.finfo(wide).min / 4)


def _check_width(columns: Tensor | None, before: int, now: int) -> None:
    """Raise unless the old and the new logits have these columns."""
    if columns is None and before > now:
        raise ValueError(f"the model gave {before} columns at consolidate and gives {now} now: was the head replaced? "
                         "Keep the old head beside the new one, or name the columns that both have with "
                         "consolidate(outputs=…)")
    if columns is not None and int(columns.max()) >= min(before, now):
        raise ValueError(f"consolidate(outputs=…) named column {int(columns.max())}, and the model gave {before} "
                         f"columns then and gives {now} now")


def _joined(known: list[Tensor | None], new: Tensor | None) -> list[Tensor | None]:
    """Sets of columns and one more, without those that another contains; ``None`` contains all."""
    if new is None:
        return [None]
    named = [columns for columns in known if columns is not None]
    if len(named) < len(known):
        raise ValueError("outputs= names columns, and an earlier consolidate took all of the logits, which may not "
                         "have been as many then: name the columns at every consolidate, or at none")
    if any(len(columns) > len(new) and torch.isin(new, columns).all() for columns in named):
        return [*named]
    return [*(columns for columns in named if not torch.isin(columns, new).all()), new]
