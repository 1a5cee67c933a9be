"""Batches of any shape: how they reach the model, how examples are counted and cut out of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, IterableDataset

Batch = Any
Forward = Callable[[nn.Module, Batch], tuple[Any, Tensor]]


def transform(batch: Batch, change: Callable[[Tensor], Tensor]) -> Batch:
    """The same structure with every tensor changed; what is not a tensor stays."""
    if isinstance(batch, Tensor):
        return change(batch)
    if isinstance(batch, Mapping):
        return {key: transform(value, change) for key, value in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(transform(value, change) for value in batch))
    if isinstance(batch, (tuple, list)):
        return type(batch)(transform(value, change) for value in batch)
    return batch


def tensors(batch: Batch) -> Iterator[Tensor]:
    """Every tensor in a batch, in order."""
    if isinstance(batch, Tensor):
        yield batch
    elif isinstance(batch, (tuple, list)):
        for value in batch:
            yield from tensors(value)
    elif isinstance(batch, Mapping):
        for value in batch.values():
            yield from tensors(value)


def default_forward(model: nn.Module, batch: Batch) -> tuple[Any, Tensor]:
    """Call the model on an ``(inputs, targets)`` pair, or on a mapping with ``labels`` as Hugging Face loaders give."""
    if isinstance(batch, Mapping):
        if "labels" not in batch:
            raise KeyError(
                f"a dict batch needs the key 'labels', got {sorted(batch)}; add it in the collator, or pass "
                "forward=lambda model, batch: (outputs, targets)"
            )
        inputs = {key: value for key, value in batch.items() if key != "labels"}
        return model(**inputs), batch["labels"]
    if not isinstance(batch, (tuple, list)) or len(batch) != 2:
        size = f" of {len(batch)}" if isinstance(batch, (tuple, list)) else ""
        raise TypeError(
            f"a batch must be an (inputs, targets) pair or a dict with 'labels', got {type(batch).__name__}{size}; "
            "pass forward=lambda model, batch: (outputs, targets) for other batches"
        )
    inputs, targets = batch
    if isinstance(inputs, Mapping):
        return model(**inputs), targets
    if isinstance(inputs, (tuple, list)):
        return model(*inputs), targets
    return model(inputs), targets


def unwrap(outputs: Any) -> Tensor:
    """The tensor of logits in what a model returned."""
    if isinstance(outputs, Tensor):
        return outputs
    logits = outputs.get("logits") if isinstance(outputs, Mapping) else getattr(outputs, "logits", None)
    if not isinstance(logits, Tensor):
        raise TypeError(
            f"the model returned {type(outputs).__name__} without a tensor .logits; pass "
            "forward=lambda model, batch: (logits, targets)"
        )
    return logits


def count(batch: Batch) -> int:
    """How many examples a batch holds: the first dimension of its targets, or of its first tensor."""
    if isinstance(batch, Mapping) and isinstance(batch.get("labels"), Tensor):
        leading: Any = batch["labels"]
    elif isinstance(batch, (tuple, list)) and len(batch) == 2 and isinstance(batch[1], Tensor):
        leading = batch[1]
    else:
        leading = next(tensors(batch), None)
    if not isinstance(leading, Tensor) or leading.ndim == 0:
        raise TypeError(f"cannot count the examples of a {type(batch).__name__}: no tensor in it has a first dimension")
    return leading.shape[0]  # len() of a tensor costs twenty times as much


def choose(batch: Batch, indices: Sequence[int], shared: Collection[int] = ()) -> Batch:
    """The examples at ``indices``; tensors without an example dimension are shared by all.

    ``shared``: the numbers of tensors that are known to be, whatever their length is in this batch.
    """
    size, numbers = count(batch), iter(range(2**31))

    def cut(tensor: Tensor) -> Tensor:
        if next(numbers) in shared or tensor.ndim == 0 or len(tensor) != size:
            return tensor
        return tensor[torch.tensor(indices, device=tensor.device)]

    return transform(batch, cut)


def _check_data(data: Any) -> None:
    """Raise for what holds no batches."""
    if isinstance(data, Dataset) and not isinstance(data, IterableDataset):
        raise TypeError(f"data is a {type(data).__name__}, which holds single examples: wrap it in a "
                        "torch.utils.data.DataLoader, which makes batches of them")
    if isinstance(data, tuple) and len(data) == 2 and all(isinstance(part, Tensor) for part in data):
        raise TypeError("data is a pair of tensors, which looks like a single batch: put it in a list")
    if isinstance(data, (Mapping, str)) or not isinstance(data, Iterable):
        raise TypeError(f"data must be an iterable of batches, got a {type(data).__name__}: a single batch goes in a "
                        "list, a matrix that was estimated earlier in consolidate(model, curvature=…)")


def first(data: Iterable[Batch], examples: int | None) -> Iterator[Batch]:
    """The batches up to exactly ``examples`` examples, all of them for ``None``; empty ones are left out."""
    _check_data(data)
    left = examples
    for batch in data:
        size = count(batch)
        if size == 0:
            continue
        if left is not None and size >= left:
            yield batch if size == left else choose(batch, range(left))
            return
        yield batch
        left = None if left is None else left - size
