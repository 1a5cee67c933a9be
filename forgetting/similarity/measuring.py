"""All measures of two tasks that one pass of a model over each allows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from forgetting.fisher.batches import Batch, Forward, default_forward, first, transform, unwrap
from forgetting.fisher.estimate import task_columns
from forgetting.parameters import canonical, evaluating, unwrapped
from forgetting.similarity.divergences import frechet, mmd
from forgetting.similarity.evidence import logme
from forgetting.similarity.predictions import leep, nce
from forgetting.similarity.separation import h_score
from forgetting.similarity.telling import proxy_a_distance

DIRECTIONS: Mapping[str, str] = MappingProxyType({
    "leep": "closer", "nce": "closer", "logme": "closer", "h_score": "closer", "cka": "closer",
    "mmd": "farther", "frechet": "farther", "proxy_a_distance": "farther", "fisher_distance": "farther",
})
"""What a high figure of each measure means."""


class Seen(NamedTuple):
    """What a model made of a task: features [n, d], source probabilities [n, source classes], labels [n]."""

    features: Tensor
    probabilities: Tensor
    labels: Tensor


def measure(
    model: nn.Module,
    source: Iterable[Batch],
    target: Iterable[Batch],
    *,
    module: str,
    outputs: Iterable[int] | None = None,
    examples: int | None = None,
    forward: Forward | None = None,
) -> dict[str, float]:
    """How far a target task is from what a model knows: all measures that features and predictions allow.

    The features are what the named module receives. Of the target's labels and the model's features:
    :func:`logme`, :func:`h_score`; of its labels and the model's source probabilities: :func:`leep`, :func:`nce` (with
    the model's decisions for source labels); of source and target features, without labels: :func:`mmd`,
    :func:`frechet`, :func:`proxy_a_distance`. Two are not among them: :func:`cka` compares two models on one task, and
    :func:`fisher_distance` needs two estimates with backward passes.

    Args:
        model: knows the source; run in eval mode and left as found.
        source: batches, as :func:`forgetting.fisher.diagonal` takes them. Their labels are not used.
        target: batches of the target task, their targets integer class labels of its own.
        module: path of the module whose input [examples, features] are the features: the head, say ``"fc"``.
        outputs: the columns of the model's outputs that are the source's; by default all.
        examples: take exactly this many of each task, the FIRST ones: shuffle data that is sorted by class.
        forward: ``forward(model, batch) -> (outputs, targets)`` for batches or models of another shape.

    Returns:
        Name -> figure; :data:`DIRECTIONS` says for each name whether a high figure means closer or farther.

    Raises:
        ValueError: where no module has that path, it does not run once a batch, its input or the model's outputs are
            not [examples, …] of two dimensions, or a measure is not defined on them (see each).
        UserWarning: (a warning) from :func:`h_score`, where the examples are few for their features.

    **Cost**: one forward pass over each task, the features in memory, and each measure's own cost: together about
    (m + n)²·d + (m + n)·d², so that a few thousand examples a task are a good number.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 5))
        >>> source = [(torch.randn(20, 4), torch.randint(5, (20,)))]
        >>> target = [(torch.randn(20, 4) + 3, torch.arange(20) % 2)]
        >>> sorted(measure(model, source, target, module="2"))
        ['frechet', 'h_score', 'leep', 'logme', 'mmd', 'nce', 'proxy_a_distance']
    """
    plain = unwrapped(model)
    heard = _module(plain, module)
    columns, run = task_columns(outputs), forward or default_forward
    before = _seen(plain, heard, f"the source data, by the input of {module!r}", source, columns, examples, run)
    after = _seen(plain, heard, f"the target data, by the input of {module!r}", target, columns, examples, run)
    return {
        "leep": leep(after.probabilities, after.labels),
        "nce": nce(after.probabilities.argmax(1), after.labels),
        "logme": logme(after.features, after.labels),
        "h_score": h_score(after.features, after.labels),
        "mmd": mmd(before.features, after.features),
        "frechet": frechet(before.features, after.features),
        "proxy_a_distance": proxy_a_distance(before.features, after.features),
    }


def _module(model: nn.Module, path: str) -> nn.Module:
    """The module at a path."""
    everything = {canonical(name): module for name, module in model.named_modules() if name}
    if path not in everything:
        near = get_close_matches(str(path), everything, 1) or list(everything)[-1:]
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"module={path!r} is none of the model's {len(everything)} modules{hint}")
    return everything[path]


def _seen(model: nn.Module, module: nn.Module, what: str, data: Iterable[Batch], columns: Tensor | None,
          examples: int | None, forward: Forward) -> Seen:
    """Run a model over a task and note what the module receives."""
    found: list[Seen] = []
    received: list[Tensor] = []

    def note(_module: nn.Module, positional: tuple[Any, ...], named: dict[str, Any]) -> None:
        values = [value for value in (*positional, *named.values()) if isinstance(value, Tensor)]
        received.extend(value.detach().to("cpu", copy=True) for value in values[:1])

    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    hook = module.register_forward_pre_hook(note, with_kwargs=True)
    try:
        with evaluating(model), torch.no_grad():
            for batch in first(data, examples):
                received.clear()
                outputs, labels = forward(model, transform(batch, lambda tensor: tensor.to(device)))
                found.append(_one(what, received, unwrap(outputs), labels, columns))
    finally:
        hook.remove()
    if not found:
        raise ValueError(f"{what}, has no examples: it is an empty iterable, or a generator that was used up")
    return Seen(*(torch.cat(parts) for parts in zip(*found, strict=True)))


def _one(what: str, received: list[Tensor], outputs: Tensor, labels: Tensor, columns: Tensor | None) -> Seen:
    """What one batch gave, checked."""
    if len(received) != 1:
        raise ValueError(f"{what}: the module received {len(received)} tensors in one forward pass, expected 1; name a "
                         "module that runs once, such as the head")
    if received[0].ndim != 2 or outputs.ndim != 2:
        raise ValueError(f"{what}: features of shape {tuple(received[0].shape)} and outputs of shape "
                         f"{tuple(outputs.shape)}, expected [examples, features] and [examples, classes]; name a "
                         "module behind the pooling, or reduce the outputs with forward=")
    logits = outputs.detach().to("cpu", torch.float64)
    if columns is not None:
        if int(columns.max()) >= logits.shape[1]:
            raise ValueError(f"outputs= names column {int(columns.max())}, the model has {logits.shape[1]} outputs")
        logits = logits[:, columns]
    return Seen(received[0], logits.softmax(1), labels.detach().cpu())
