"""Norm statistics measured anew: what the norm layers of the new model see of the source data."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from forgetting.diagnosis.answers import Reader
from forgetting.fisher.batches import Batch, count, tensors
from forgetting.norms import norm_layers
from forgetting.protocol.measure import running_statistics


def reestimated(model: nn.Module, data: Iterable[Batch], reader: Reader) -> dict[str, Tensor] | None:
    """Running statistics from one pass over the data; None where no batch has two examples.

    Each is the mean over batches, weighted by their examples, of the batches' own means and variances, while every
    layer normalises by the batch. The model's own statistics are overwritten: the caller puts them back.
    """
    seen = 0
    with _collecting(norm_layers(model)), torch.no_grad():
        for batch in data:
            if count(batch) > 1:
                reader.raw(model, batch)
                seen += count(batch)
    return running_statistics(model) if seen else None


@contextlib.contextmanager
def _collecting(layers: list[nn.Module]) -> Iterator[None]:
    """Let these layers alone train, with a cumulative average: each use weighs as much as it has examples.

    The flag is set by a hook in front of the layer: a layer that is held still (:func:`forgetting.still`) clears it
    in a hook of its own, which comes first.
    """
    seen: dict[nn.Module, int] = defaultdict(int)
    momenta = {layer: vars(layer).get("momentum") for layer in layers}

    def enter(layer: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        examples = len(next(tensors([arguments, named])))
        seen[layer] += examples
        layer.training, layer.momentum = True, examples / seen[layer]  # type: ignore[assignment]

    def leave(layer: nn.Module, *_: Any) -> None:
        layer.training = False

    hooks = [hook for layer in layers for hook in (
        layer.register_forward_pre_hook(enter, with_kwargs=True), layer.register_forward_hook(leave, always_call=True))]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for layer, momentum in momenta.items():
            layer.momentum = momentum  # type: ignore[assignment]
