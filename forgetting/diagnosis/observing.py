"""One pass over the source data: every model's answers to the same batches, and what their modules gave out."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from forgetting.diagnosis.answers import Reader
from forgetting.diagnosis.likeness import Likeness, watching
from forgetting.fisher.batches import Batch, count
from forgetting.protocol.measure import put_back, running_statistics

BEFORE, AFTER = "before", "after"
EMPTY = "the data holds no examples: an iterator that was used up, or an empty loader?"


@dataclass(frozen=True)
class Observed:
    """What one pass showed.

    Args:
        logits: which model, or the new one with which statistics -> float64 [examples, columns].
        targets: [examples], places among the columns; None where the data has no labels.
        inputs: of the head, by model, [examples, features]; None where there is no head, or it gets something else.
        likeness: CKA by module.
    """

    logits: dict[str, Tensor]
    targets: Tensor | None
    inputs: dict[str, Tensor] | None
    likeness: Likeness


def observe(before: nn.Module, after: nn.Module, data: Iterable[Batch], reader: Reader, head: str | None,
            statistics: Mapping[str, Mapping[str, Tensor]], modules: Iterable[str] = ()) -> Observed:
    """Show the same batches to the old model, the new one, and the new one with other norm statistics.

    Args:
        before, after: in eval mode.
        data: batches.
        reader: reads their answers.
        head: the linear layer whose inputs are kept; None for none.
        statistics: name -> running statistics for the new model.
        modules: whose CKA is wanted.
    """
    logits: dict[str, list[Tensor]] = defaultdict(list)
    inputs: dict[str, list[Tensor | None]] = defaultdict(list)
    labels: list[Tensor | None] = []
    likeness = Likeness()
    modules = list(modules)
    for batch in data:
        grams = []
        for which, model in ((BEFORE, before), (AFTER, after)):
            with watching(model, [] if likeness.enough else modules, head, count(batch)) as seen:
                answers, targets = reader.read(model, batch, which)
            grams.append(seen.grams)
            logits[which].append(answers)
            inputs[which].append(None if seen.inputs is None else seen.inputs.detach().float())
        likeness.add(*grams)
        labels.append(targets)
        for name, values in statistics.items():
            with exchanged(after, values):
                logits[name].append(reader.read(after, batch, AFTER)[0])
    if not labels:
        raise ValueError(EMPTY)
    return Observed({name: torch.cat(parts) for name, parts in logits.items()}, _joined(labels),
                    _features(inputs) if head is not None else None, likeness)


@contextlib.contextmanager
def exchanged(model: nn.Module, statistics: Mapping[str, Tensor]) -> Iterator[None]:
    """Other norm statistics for the length of a block."""
    own = running_statistics(model)
    try:
        put_back(model, statistics)
        yield
    finally:
        put_back(model, own)


def _joined(labels: list[Tensor | None]) -> Tensor | None:
    """All labels, or none: some batches with and some without are an error."""
    given = [part for part in labels if part is not None]
    if given and len(given) < len(labels):
        raise ValueError(f"{len(given)} of {len(labels)} batches have labels; compare takes all of them or none")
    return torch.cat(given) if given else None


def _features(inputs: Mapping[str, list[Tensor | None]]) -> dict[str, Tensor] | None:
    """The head's inputs by model, where it gets one row of features an example."""
    found = {}
    for which, parts in inputs.items():
        given = [part for part in parts if part is not None and part.ndim == 2]
        if len(given) < len(parts):
            return None
        found[which] = torch.cat(given)
    return found
