"""What a model answers: logits of the task's columns, labels as places among them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from forgetting.fisher.batches import Batch, default_forward, first, transform, unwrap

Forward = Callable[[nn.Module, Batch], tuple[Any, Tensor | None]]


class Stream:
    """The batches of some data, as often as they are asked for; what can be read only once is kept.

    Args:
        data: batches, with or without labels.
    """

    def __init__(self, data: Iterable[Batch]) -> None:
        self.data = list(data) if isinstance(data, Iterator) else data

    def __iter__(self) -> Iterator[Batch]:
        return map(_paired, first(self.data, None))


def _paired(batch: Batch) -> Batch:
    """The batch as (inputs, None) where it brings no labels."""
    if isinstance(batch, Tensor) or (isinstance(batch, Mapping) and "labels" not in batch):
        return batch, None
    if isinstance(batch, (tuple, list)) and len(batch) == 1:
        return batch[0], None
    return batch


class Reader:
    """Reads a task's logits off any of the models.

    Args:
        forward: from the model and a batch to outputs and labels.
        columns: of the outputs that belong to the task; None for all.
    """

    def __init__(self, forward: Forward | None, columns: Tensor | None) -> None:
        self._forward: Forward = forward or default_forward
        self.columns = columns

    def raw(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """All logits, on the model's device, and the labels."""
        anchor = next(model.parameters(), None)
        moved = batch if anchor is None else transform(batch, lambda tensor: tensor.to(anchor.device))
        outputs, targets = self._forward(model, moved)
        return unwrap(outputs), targets

    def read(self, model: nn.Module, batch: Batch, which: str) -> tuple[Tensor, Tensor | None]:
        """The task's logits in float64 on the CPU, and the labels as places among its columns."""
        logits, targets = self.raw(model, batch)
        if logits.ndim != 2:
            raise ValueError(f"compare reads one answer an example, outputs [examples, classes]; the model gives "
                             f"{tuple(logits.shape)}; pass forward=lambda model, batch: (logits, targets), with the "
                             "logits of one position say")
        width = logits.shape[1]
        if self.columns is not None:
            if int(self.columns.max()) >= width:
                raise ValueError(f"outputs= names column {int(self.columns.max())}, the model gives {width}")
            logits = logits.index_select(1, self.columns.to(logits.device))
        logits = logits.detach().double().cpu()
        if not torch.isfinite(logits).all():
            raise ValueError(f"the outputs of the model {which} fine-tuning are not finite: nothing to compare")
        return logits, None if targets is None else self._places(targets, len(logits), width)

    def numbered(self, places: Tensor) -> Tensor:
        """Places among the task's columns as numbers of all columns."""
        return places if self.columns is None else self.columns.to(places.device)[places]

    def with_labels(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """All logits and labels; where there are none, the model's own answers."""
        logits, targets = self.raw(model, batch)
        if targets is not None:
            return logits, targets
        own = logits if self.columns is None else logits.index_select(1, self.columns.to(logits.device))
        return logits, self.numbered(own.detach().argmax(1))

    def _places(self, targets: Tensor, examples: int, width: int) -> Tensor:
        """Labels, numbers of all columns, as places among the task's."""
        if targets.shape != (examples,) or targets.is_floating_point() or targets.dtype == torch.bool:
            raise ValueError(f"compare takes labels as whole numbers of shape ({examples},), got {targets.dtype} of "
                             f"shape {tuple(targets.shape)}")
        targets = targets.cpu().long()
        known = torch.arange(width) if self.columns is None else self.columns
        foreign = sorted(set(targets.tolist()) - set(known.tolist()))
        if foreign:
            raise ValueError(f"the data holds the labels {foreign[:5]}, which are none of the {len(known)} outputs "
                             "that are compared; leave such examples out, or say outputs=")
        places = torch.full((width,), -1).index_put_((known,), torch.arange(len(known)))
        return places[targets]
