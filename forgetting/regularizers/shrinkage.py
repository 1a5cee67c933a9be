"""Batch spectral shrinkage: the weakest directions among a batch's features are pressed to zero."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from forgetting.curvature import Curvature
from forgetting.parameters import Handle
from forgetting.regularizers.base import Regularizer
from forgetting.regularizers.listening import Listener, Listeners, chosen, layers, now
from forgetting.regularizers.teacher import needs_inputs, outside_compilers

_listeners = Listeners()


class BatchSpectralShrinkage(Regularizer):
    """Presses the k smallest singular values of a batch's features to zero: the target's gain, not retention.

    λ·Σ_{i=1}^{k} σ_{−i}², with σ_{−i} the i-th smallest singular value of the feature matrix F, [examples, features].
    Directions of pretrained features that the target hardly uses carry what does not transfer; without them fine-tuning
    on few examples does better on the target. It keeps nothing of the old model: combine it with a penalty that does.

    It acts from ``consolidate(model)`` on, like every regularizer, and remembers nothing there but that.

    Args:
        strength: λ ≥ 0, the paper's η.
        smallest: k ≥ 1; of a batch with fewer singular values, all.
        module: the path of the module whose output is F, flattened to a row an example; ``None`` for what enters the
            layer that runs last, the head.

    Raises:
        ValueError: for k below 1; from ``consolidate``, for a path of no module or several; from ``penalty``, without
            inputs.

    **Cost**: no memory. A step: the eigenvectors of a matrix of the smaller of examples and features, in float64;
    without :meth:`attach` a forward and a backward pass more.

    **Reference**: Chen et al. 2019, "Catastrophic Forgetting Meets Negative Transfer: Batch Spectral Shrinkage for Safe
    Transfer Learning" (NeurIPS 2019).
    **Differs**: nothing in the value. The singular vectors come from the smaller Gram matrix in float64 and are held
    fixed, so that the gradient is 2·V_kV_kᵀF: no decomposition of F itself, and none to go back through.

    Example:
        >>> model = nn.Linear(2, 2)
        >>> shrinkage = BatchSpectralShrinkage(strength=0.5)
        >>> shrinkage.consolidate(model)
        >>> round(shrinkage.penalty(model, torch.tensor([[3.0, 0.0], [0.0, 2.0]])).item(), 4)
        2.0
    """

    properties: ClassVar[frozenset[str]] = frozenset({"linear"})

    def __init__(self, strength: float, *, smallest: int = 1, module: str | None = None) -> None:
        super().__init__(strength)
        if smallest < 1:
            raise ValueError(f"smallest= is {smallest}; at least one singular value is pressed to zero")
        self.smallest = smallest
        self.module = module
        self._tasks = 0
        self._head: str | None = None

    def consolidate(
        self, model: nn.Module, data: Any = None, *, outputs: Any = None, curvature: Curvature | None = None
    ) -> None:
        """Let the penalty act from here on; ``data`` and ``outputs`` are not read.

        Raises:
            ValueError: where a ``curvature`` is given, or the model lacks the module.
        """
        if curvature is not None:
            raise ValueError("BatchSpectralShrinkage looks at features and has no use for curvature=")
        if self.module is not None and len(chosen(model, self.module)) > 1:
            raise ValueError(f"module={self.module!r} names several modules; the feature matrix is the output of one")
        self._tasks += 1
        self._head = None

    def attach(self, model: nn.Module, optimizer: Optimizer, *, mode: str = "loss") -> Handle:
        """Listen to the loop's own forward passes, until the handle is removed, see :meth:`FeatureL2.attach`."""
        handle = super().attach(model, optimizer, mode=mode)
        listener = Listener(model, entering=self.module is None)
        if self._head is not None:
            listener.hear([self._head])
        return _listeners.put(self, listener, handle)

    def penalty(self, model: nn.Module, inputs: Any = None, outputs: Any = None) -> Tensor:
        """λ·Σ of the smallest squared singular values; a 0 without a graph before consolidation and at strength 0.

        Args:
            model: on any device, in any dtype.
            inputs: the batch's inputs: a tensor, a tuple of positional or a mapping of keyword arguments.
            outputs: not read: features come from ``attach``'s hooks or a pass of the penalty's own.
        """
        if self._tasks == 0 or self.strength == 0:
            return self.zero(model)
        if inputs is None:
            raise needs_inputs(self)
        return self.strength * outside_compilers(self._tail)(model, inputs)

    def _tail(self, model: nn.Module, inputs: Any) -> Tensor:
        """Σ of the smallest squared singular values of the features."""
        entering = self.module is None
        if self._head is None:
            self._head = layers(model, inputs)[-1] if self.module is None else chosen(model, self.module)[0]
        found = now(model, [self._head], inputs, _listeners.get(self), entering=entering)[self._head]
        if not found:
            raise ValueError(f"the module {self._head!r} does not run in the model's forward pass on these inputs, so "
                             "it has no features; name another with module=")
        return smallest_squares(found[-1].flatten(1), self.smallest)

    def _learned(self) -> dict[str, Any]:
        return {"tasks": self._tasks}

    def _restore(self, learned: Mapping[str, Any]) -> None:
        self._tasks, self._head = learned["tasks"], None


def smallest_squares(features: Tensor, count: int) -> Tensor:
    """The sum of a matrix's smallest squared singular values, in float32 or better.

    The singular vectors come from the Gram matrix in float64; the value is what is left of the matrix along them, so
    that it is as exact as the matrix, however small.
    """
    matrix = features.to(torch.promote_types(features.dtype, torch.float32))
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    with torch.autocast(matrix.device.type, enabled=False):
        with torch.no_grad():
            double = wide.double()
            vectors = torch.linalg.eigh(double @ double.T).eigenvectors[:, :count]
        return (vectors.T.to(wide) @ wide).square().sum()
