"""What consolidating a task will cost, before anything is trained."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from forgetting.protocol.recipe import Recipe
from forgetting.rehearsal import Rehearsal
from forgetting.tasks import TaskSequence


@dataclass(frozen=True)
class Forecast:
    """The cost of one consolidation.

    Args:
        seconds: wall clock, predicted from one batch.
        bytes: of tensors that the regularizer keeps, measured.

    Example:
        >>> Forecast(seconds=0.5, bytes=1024).bytes
        1024
    """

    seconds: float
    bytes: int


def forecast(recipe: Recipe, sequence: TaskSequence, model: nn.Module) -> Forecast | None:
    """What consolidating the sequence's first task will cost; None for a method without a regularizer.

    Args:
        recipe: whose method is asked for.
        sequence: its tasks.
        model: one for the sequence; left as found.

    **Cost**: two batches are consolidated, the first of them to get warm.

    Example:
        >>> from forgetting import methods, tasks
        >>> recipe = Recipe("digits-transfer", methods.get("l2sp"))
        >>> sequence = recipe.sequence_of(0)
        >>> forecast(recipe, sequence, recipe.model_of(sequence, 0)).bytes
        104496
    """
    makers = [part.regularizer for part in recipe.method.parts if part.regularizer is not None]
    if not makers:
        return None
    source = sequence[0].train
    wanted = [int(part.settings.get("examples") or len(source)) for part in recipe.method.parts if part.regularizer]
    seconds, kept = 0.0, 0
    for make, most in zip(makers, wanted, strict=True):
        examples = min(len(source), most)
        size = min(recipe.batch, examples)
        for _ in range(2):
            regularizer = make()
            batch = source.subset(torch.arange(size)).to(recipe.device).batches(size)
            began = time.perf_counter()
            regularizer.consolidate(model, batch, outputs=sequence.columns(0, 1))
            took = time.perf_counter() - began
        reads = getattr(regularizer, "needs_data", True)
        seconds += took * examples / size if reads else took
        taken = sum(tensor.numel() * tensor.element_size() for tensor in _tensors(regularizer.state_dict()))
        kept += taken * examples // size if isinstance(regularizer, Rehearsal) else taken
    return Forecast(seconds, kept)


def _tensors(state: Any) -> Iterator[Tensor]:
    """Every tensor in nested dicts."""
    if isinstance(state, Tensor):
        yield state
    elif isinstance(state, dict):
        for value in state.values():
            yield from _tensors(value)
