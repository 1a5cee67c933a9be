"""What comes into a memory: how many examples, of which classes and columns, and who goes before whom."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from forgetting.rehearsal.rows import flattened

POLICIES = ("reservoir", "balanced")
NO_CLASS = -1


def checked(share: float | None, capacity: int | None, policy: str, seed: int) -> None:
    """Raise for settings of a memory that say too little, too much or nonsense."""
    if (share is None) == (capacity is None):
        raise ValueError("a memory takes share= (of each task's examples) or capacity= (a number of examples), and not "
                         f"both; got share={share}, capacity={capacity}")
    if share is not None and not 0 < share <= 1:
        raise ValueError(f"share is {share}; it lies in (0, 1], such as 0.01 for one example in a hundred")
    if capacity is not None and (not isinstance(capacity, int) or isinstance(capacity, bool) or capacity < 1):
        raise ValueError(f"capacity is {capacity!r}; it is a number of examples, at least 1")
    if policy not in POLICIES:
        raise ValueError(f"policy={policy!r} does not exist: choose one of {', '.join(POLICIES)}")
    if not isinstance(seed, int) or seed < 0:
        raise ValueError(f"a seed is an integer of at least 0, not {seed!r}")


def pair(batch: Any, labelled: bool) -> tuple[Any, Tensor | None]:
    """Inputs and targets of a batch; without labels, its inputs and ``None``."""
    if isinstance(batch, Mapping):
        if labelled and "labels" not in batch:
            raise KeyError(f"a dict batch needs the key 'labels', got {sorted(batch)}; add it in the collator")
        return {key: value for key, value in batch.items() if key != "labels"}, batch["labels"] if labelled else None
    if isinstance(batch, (tuple, list)) and len(batch) == 2:
        return batch[0], batch[1] if labelled else None
    if labelled:
        raise TypeError(f"a batch must be an (inputs, targets) pair or a dict with 'labels', got a "
                        f"{type(batch).__name__}")
    return (batch[0] if isinstance(batch, (tuple, list)) and len(batch) == 1 else batch), None


def size_of(inputs: Any) -> int:
    """How many examples; every tensor has one row for each."""
    lengths = {leaf.shape[0] if leaf.dim() else None for leaf in flattened(inputs)[1]}
    if len(lengths) != 1 or None in lengths:
        raise ValueError(f"every tensor of the inputs has one row an example; here they have {lengths or 'none'}")
    return lengths.pop() or 0


def named_columns(outputs: Any) -> tuple[int, ...] | None:
    """Columns of the logits as plain numbers."""
    if outputs is None:
        return None
    if isinstance(outputs, str) or not isinstance(outputs, Iterable):
        raise TypeError(f"columns are numbers, such as range(5) or [0, 3], not {outputs!r}")
    columns = tuple(int(column) for column in outputs)
    if not columns or min(columns) < 0 or len(set(columns)) < len(columns):
        raise ValueError(f"columns are named each once and from 0 on, not {list(columns)}")
    return columns


def labels_of(targets: Tensor | None, size: int, columns: tuple[int, ...] | None, policy: str) -> Tensor:
    """The class of each example, on the CPU; −1 where targets are not one integer each."""
    if targets is not None and (targets.dim() < 1 or len(targets) != size):
        raise ValueError(f"one target an example: {size} examples came with targets of shape {tuple(targets.shape)}")
    single = targets is not None and targets.dim() == 1 and not targets.is_floating_point()
    if targets is None or not single:
        if policy == "balanced":
            raise ValueError('policy="balanced" needs integer targets, one an example: take policy="reservoir"')
        return torch.full((size,), NO_CLASS)
    classes = targets.detach().to("cpu", torch.int64)
    if columns is not None and not torch.isin(classes, torch.tensor(columns)).all():
        strangers = sorted(set(classes.tolist()) - set(columns))
        raise ValueError(f"the targets {strangers[:8]} are none of the columns outputs={list(columns)}; targets count "
                         "over all the model's logits")
    return classes


def ranked(keys: Tensor, classes: Tensor, policy: str) -> Tensor:
    """The order in which examples are kept: by their keys, or by their rank in their class and then by their keys."""
    order = torch.argsort(keys)
    if policy == "reservoir":
        return order
    grouped = order[torch.argsort(classes[order], stable=True)]
    sizes = torch.unique_consecutive(classes[grouped], return_counts=True)[1]
    ranks = torch.empty_like(order)
    ranks[grouped] = torch.arange(len(order)) - torch.repeat_interleave(sizes.cumsum(0) - sizes, sizes)
    return order[torch.argsort(ranks[order], stable=True)]
