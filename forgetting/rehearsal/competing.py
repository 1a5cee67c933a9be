"""Which columns of the logits compete for a stored example, and its loss among them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from forgetting.rehearsal.memory import Drawn

Sets = Sequence[tuple[int, ...] | None]


def mask_of(sets: Sets, drawn: Drawn, logits: Tensor) -> Tensor | None:
    """bool [n, 1…, classes]: the columns of each example's own set; ``None`` where it is all of them for all."""
    if all(columns is None for columns in sets):
        return None
    width = logits.shape[-1]
    table = torch.zeros(len(sets), width, dtype=torch.bool)
    for row, columns in zip(table, sets, strict=True):
        if columns is None:
            row.fill_(True)
        elif max(columns) >= width:
            raise ValueError(f"the column {max(columns)} is to compete for stored examples, and the model gives "
                             f"{width} logits")
        else:
            row[list(columns)] = True
    shape = (len(drawn.tasks), *([1] * (logits.dim() - 2)), width)
    return table[drawn.tasks].to(logits.device).view(shape)


def among(logits: Tensor, mask: Tensor | None) -> Tensor:
    """The logits, with −∞ in columns that do not compete."""
    return logits if mask is None else logits.masked_fill(~mask, float("-inf"))


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """The mean over examples (and positions) of the targets' negative log probability."""
    if targets.is_floating_point() or targets.shape != logits.shape[:-1]:
        raise TypeError(f"cross entropy takes integer targets of shape {tuple(logits.shape[:-1])}; these are "
                        f"{targets.dtype} of shape {tuple(targets.shape)}: give loss= of (logits, targets)")
    return functional.cross_entropy(logits.flatten(0, -2), targets.flatten().long())


def squared_distance(logits: Tensor, answers: Tensor, mask: Tensor | None) -> Tensor:
    """The mean over examples of the mean squared distance to the stored logits, over the columns that have some."""
    stored = ~answers.isnan()
    if mask is not None:
        stored = stored & mask[..., : answers.shape[-1]]
    apart = torch.where(stored, logits[..., : answers.shape[-1]] - answers.nan_to_num(), 0.0)
    return (apart.square().flatten(1).sum(1) / stored.flatten(1).sum(1).clamp(min=1)).mean()
