"""What the model computes on the way to its answers is held to what it computed."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer

from forgetting.parameters import Handle, Selection
from forgetting.regularizers.distillation import counted
from forgetting.regularizers.listening import Listener, Listeners, chosen, features, located, now, usual
from forgetting.regularizers.teacher import Past, Taught

_listeners = Listeners()


class FeatureDistance(Taught):
    """½·λ·Σ_modules distance between what a module gives out and what it gave out at the last ``consolidate``.

    A concrete method says how much each channel counts.
    """

    def __init__(self, strength: float, *, modules: Selection = None) -> None:
        super().__init__(strength)
        self.modules = modules
        self._paths: list[str] = []

    def attach(self, model: nn.Module, optimizer: Optimizer, *, mode: str = "loss") -> Handle:
        """Listen to the loop's own forward passes, until the handle is removed.

        ``penalty(model, inputs)`` then takes the features of the loop's pass on the same ``inputs`` (the very object),
        in the loop's modes and with its graph, and needs no second pass; call it before ``backward``. Where the loop
        ran something else, or compiled code that was made before, the penalty makes a pass of its own in eval mode.
        """
        handle = super().attach(model, optimizer, mode=mode)
        listener = Listener(model)
        if self._paths:
            listener.hear(self._paths)
        return _listeners.put(self, listener, handle)

    def penalty(self, model: nn.Module, inputs: Any = None, outputs: Any = None) -> Tensor:
        """½·λ·Σ of the distances; a 0 without a graph before consolidation and at strength 0.

        Args:
            model: on any device, in any dtype.
            inputs: the batch's inputs: a tensor, a tuple of positional or a mapping of keyword arguments.
            outputs: not read: features come from ``attach``'s hooks or a pass of the penalty's own.
        """
        return self._weighed(self._distance, model, inputs)

    @abstractmethod
    def _weights(self, path: str) -> Tensor | None:
        """How much each channel of a module counts, summing to 1; ``None`` for all alike."""

    @abstractmethod
    def _learn(self, model: nn.Module, data: Any, outputs: Any) -> list[str]:
        """Learn from data, and the paths of the modules that count; none, where they are told from the first inputs.

        It raises before it changes anything.
        """

    def _absorb(self, model: nn.Module, data: Any, outputs: Any) -> None:
        self._paths = self._learn(model, data, outputs)

    def _distance(self, past: Past, inputs: Any) -> Tensor:
        model = past.model
        paths = self._named(model, inputs)
        new = now(model, paths, inputs, _listeners.get(self))
        old = features(located(model, paths), lambda: past.run(inputs))
        total = torch.zeros((), device=next(model.parameters()).device)
        for path in paths:
            _check(path, old[path], new[path])
            for before, after in zip(old[path], new[path], strict=True):
                past.check(before, "consolidate again, or name modules that do not depend on it with modules=")
                total = total + apart(before, after, self._weights(path), counted(inputs, before))
        return 0.5 * total

    def _named(self, model: nn.Module, inputs: Any) -> list[str]:
        """The paths of the modules that count; told from a model and inputs where nobody named them."""
        if not self._paths:
            self._paths = chosen(model, self.modules) if self.modules is not None else usual(model, inputs)
        return self._paths

    def _restore(self, learned: Mapping[str, Any]) -> None:
        super()._restore(learned)
        self._paths = []


class FeatureL2(FeatureDistance):
    """Holds the features themselves, all alike, on the new task's inputs: DELTA without attention.

    ½·λ·Σ_modules mean over the batch, channels and positions of (f − f*)², with f what a module gives out and f* what
    it gave out for the same inputs at the last ``consolidate(model)``, which reads no data. A module that runs several
    times counts each time; where it gives out several tensors, the first. Positions that an ``attention_mask`` in the
    inputs leaves out do not count. A head may be replaced as long as no named module depends on it.

    The old model runs in eval mode. The present one's features are those of the loop's own pass where
    :meth:`attach` is on, else of a pass of the penalty's own in eval mode.

    Args:
        strength: λ ≥ 0.
        modules: patterns of modules' paths (or a function of a path); ``None`` for the outermost repeated blocks
            (residual blocks, transformer layers), or, in a model without, all layers with parameters but the last.

    Raises:
        ValueError: from ``consolidate``, for a pattern that matches no module; from ``penalty``, without inputs, or
            where a module is gone, does not run, or gives out another shape than before.

    **Cost**: memory of one copy of parameters and buffers. A step: one forward pass without gradients, and the
    difference of the features; without :meth:`attach` a forward and a backward pass more.

    **Reference**: Li et al. 2019 (arXiv 1901.09229), section 3, with equal weights ("without attention"); Romero et al.
    2015 (arXiv 1412.6550) for features as targets.
    **Differs**: a mean in place of a sum over channels and positions, so that the strength does not depend on the size
    of a layer; and the factor ½. The paper's pull of a new head to zero is weight decay on the head's parameter group.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 1))
        >>> held = FeatureL2(strength=2.0)
        >>> held.consolidate(model)
        >>> model[0].weight.data += 1.0
        >>> round(held.penalty(model, torch.ones(5, 2)).item(), 4)
        4.0
    """

    def _weights(self, path: str) -> Tensor | None:
        return None

    def _learn(self, model: nn.Module, data: Any, outputs: Any) -> list[str]:
        return chosen(model, self.modules) if self.modules is not None else []


def apart(old: Tensor, new: Tensor, weights: Tensor | None, which: Tensor | None) -> Tensor:
    """The mean over rows of the weighted squared differences of channels, in float32 or better.

    Channels are the second dimension, and the last of three: [examples, channels, …] or [examples, positions,
    channels].
    """
    wide = torch.promote_types(new.dtype, torch.float32)
    old, new = old.to(wide), new.to(wide)
    axis = channel_axis(new)
    if which is not None:
        old, new, axis = old[which], new[which], 1
    if weights is None:
        return functional.mse_loss(new, old) if len(new) else new.sum()
    others = [place for place in range(new.ndim) if place != axis]
    squares = functional.mse_loss(new, old, reduction="none").mean(others) if len(new) else new.sum(others)
    return (squares * weights.to(new)).sum()


def channel_axis(value: Tensor) -> int:
    """Where a feature's channels stand."""
    return 2 if value.ndim == 3 else min(1, value.ndim - 1)


def _check(path: str, old: list[Tensor], new: list[Tensor]) -> None:
    """Raise where there is nothing to compare."""
    if not new:
        raise ValueError(f"the module {path!r} does not run in the model's forward pass on these inputs, so it has no "
                         "features; name others with modules=")
    shapes = [[tuple(value.shape) for value in values] for values in (old, new)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"the module {path!r} gave out {shapes[0]} at consolidate and gives {shapes[1]} now; name "
                         "others with modules=, or consolidate after such a change")
