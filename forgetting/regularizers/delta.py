"""DELTA: features are held, the more a channel the more the loss needs it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from forgetting.fisher.batches import default_forward, first, transform, unwrap
from forgetting.fisher.estimate import task_columns
from forgetting.parameters import Selection, unwrapped
from forgetting.regularizers.features import FeatureDistance, channel_axis
from forgetting.regularizers.listening import chosen, features, located, usual
from forgetting.regularizers.teacher import as_tested


class DELTA(FeatureDistance):
    """Holds the features that matter: channel by channel, by how much the loss grows without it.

    ½·λ·Σ_modules Σ_j W_j·(mean over the batch and positions of (f_j − f*_j)²), with f_j a channel of what a module
    gives out, f*_j what it gave out for the same inputs at the last ``consolidate``, and the attention W = softmax over
    a module's channels of L(without channel j) − L: the mean cross entropy on the data of
    ``consolidate(model, data, outputs=columns)`` with the channel set to 0, against the cross entropy with all. With
    the data of the source this keeps what the source needs; the paper takes the target's, under a head that was
    trained for it on frozen features first. Without attention it is :class:`FeatureL2`, which needs no data.

    Args:
        strength: λ ≥ 0.
        modules: patterns of modules' paths (or a function of a path); ``None`` as in :class:`FeatureL2`.
        examples: how many examples of ``data`` the attention is estimated on; ``None`` for all.

    Raises:
        ValueError: from ``consolidate``, without data, for logits that are not [examples, columns], or targets outside
            the columns; see also :class:`FeatureL2`.

    **Cost**: consolidation takes one forward pass over the examples for every channel of the modules (a ResNet-18:
    1920); fewer ``modules`` and ``examples`` make it cheaper. Memory of one copy of parameters and buffers, and a
    number a channel. A step: one forward pass without gradients, and the difference of the features; without
    :meth:`attach` a forward and a backward pass more.

    **Reference**: Li et al. 2019 (arXiv 1901.09229), section 3.
    **Differs**: a mean in place of a sum over positions, so that the strength does not depend on the size of a feature
    map; the factor ½; the losses are averaged over the examples before the softmax, so that there is one attention for
    all inputs. The paper's pull of a new head to zero is weight decay on the head's parameter group. Channels are the
    second dimension, and the last of three.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
        >>> data = [(torch.ones(4, 2), torch.tensor([0, 1, 1, 0]))]
        >>> delta = DELTA(strength=1.0)
        >>> delta.consolidate(model, data)
        >>> list(delta.attention), round(float(delta.attention["0"].sum()), 6)
        (['0'], 1.0)
        >>> model[0].bias.data += 1.0
        >>> round(delta.penalty(model, torch.ones(4, 2)).item(), 4)
        0.5
    """

    def __init__(self, strength: float, *, modules: Selection = None, examples: int | None = 256) -> None:
        super().__init__(strength, modules=modules)
        if examples is not None and examples < 1:
            raise ValueError(f"examples= must be at least 1, got {examples}")
        self.examples = examples
        self._attention: dict[str, Tensor] = {}

    @property
    def attention(self) -> Mapping[str, Tensor]:
        """Module -> the weight of each of its channels, summing to 1; empty before :meth:`consolidate`."""
        return self._attention

    def _weights(self, path: str) -> Tensor | None:
        return self._attention[path]

    def _learn(self, model: nn.Module, data: Any, outputs: Any) -> list[str]:
        if data is None:
            raise ValueError("DELTA needs data= to tell which channels matter: batches of the task whose knowledge "
                             "is to be kept; FeatureL2 holds all channels alike and needs none")
        self._attention = self._estimated(model, data, task_columns(outputs))
        return list(self._attention)

    def _estimated(self, model: nn.Module, data: Any, columns: Tensor | None) -> dict[str, Tensor]:
        """The attention that the data give."""
        paths: list[str] = []
        sums: dict[str, Tensor] = {}
        whole, count = 0.0, 0
        device = next(model.parameters()).device
        for batch in first(data, self.examples):
            batch = transform(batch, partial(Tensor.to, device=device))
            with as_tested(model), torch.no_grad():
                if not paths:
                    paths = chosen(model, self.modules) if self.modules is not None else usual(model, _inputs(batch))
                modules = located(model, paths)
                widths = _widths(features(modules, partial(default_forward, unwrapped(model), batch)))
                loss, size = _loss(model, batch, columns)
                whole, count = whole + loss, count + size
                for path, module in modules.items():
                    sums.setdefault(path, torch.zeros(widths[path], dtype=torch.float64))
                    for channel in range(widths[path]):
                        with _off(module, channel):
                            sums[path][channel] += _loss(model, batch, columns)[0]
        if not count:
            raise ValueError("data holds no examples, so no channel's importance can be told")
        return {path: torch.softmax((total - whole) / count, 0).to(device, torch.float32)
                for path, total in sums.items()}

    def _learned(self) -> dict[str, Any]:
        return {**super()._learned(), "attention": {path: value.clone() for path, value in self._attention.items()}}

    def _restore(self, learned: Mapping[str, Any]) -> None:
        super()._restore(learned)
        self._attention = {path: value.clone() for path, value in learned["attention"].items()}
        self._paths = list(self._attention)


@contextmanager
def _off(module: nn.Module, channel: int) -> Iterator[None]:
    """Set one channel of what a module gives out to 0."""

    def silence(_module: nn.Module, _received: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return (_without(output[0], channel), *output[1:])
        return _without(output, channel)

    hook = module.register_forward_hook(silence)
    try:
        yield
    finally:
        hook.remove()


def _without(value: Tensor, channel: int) -> Tensor:
    """A copy of a feature with one channel set to 0."""
    return value.index_fill(channel_axis(value), torch.tensor([channel], device=value.device), 0)


def _widths(found: Mapping[str, list[Tensor]]) -> dict[str, int]:
    """How many channels each module has."""
    for path, values in found.items():
        if not values:
            raise ValueError(f"the module {path!r} does not run in the model's forward pass, so it has no features; "
                             "name others with modules=")
    return {path: values[0].shape[channel_axis(values[0])] for path, values in found.items()}


def _loss(model: nn.Module, batch: Any, columns: Tensor | None) -> tuple[float, int]:
    """The summed cross entropy of a batch over a task's columns, and the number of its examples."""
    outputs, targets = default_forward(unwrapped(model), batch)
    logits = unwrap(outputs).double()
    if logits.ndim != 2 or targets.shape != logits.shape[:1] or targets.is_floating_point():
        raise ValueError(f"DELTA's attention needs logits [examples, columns] and a class for each example, got "
                         f"{tuple(logits.shape)} and {tuple(targets.shape)} of {targets.dtype}; FeatureL2 needs none")
    targets = targets.to(logits.device)
    if columns is not None:
        place = targets.unsqueeze(1) == columns.to(logits.device)
        if not place.any(1).all():
            raise ValueError(f"labels outside the outputs: the columns are {columns.tolist()}, and a label is among "
                             "others; targets are column numbers of the model's full outputs")
        logits, targets = logits.index_select(1, columns.to(logits.device)), place.int().argmax(1)
    return float(functional.cross_entropy(logits, targets, reduction="sum")), len(targets)


def _inputs(batch: Any) -> Any:
    """The inputs of a batch as loaders give it."""
    return batch if isinstance(batch, Mapping) else batch[0]
