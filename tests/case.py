"""What a row of tests/cases.py is: a model and ONE batch of all its examples, which can be cut into any size.

Weights, norm statistics and data are random, with no special values (no zero biases, no unit variances), and equal
in float32 and float64 up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from tests.oracles import Meaning

Build = Callable[[], tuple[nn.Module, Any]]


@dataclass(frozen=True)
class Case:
    """One model with its data: ``make`` gives (float32 model, batch); ``needs`` is the package it comes from."""

    name: str
    make: Build
    meaning: Meaning = field(default_factory=Meaning)
    forward: Callable | None = None
    parameters: str | tuple[str, ...] | None = None
    needs: str | None = None
    train: bool = False

    def build(self, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, Any]:
        """The model (in eval mode unless ``train``) and its batch; the global random state is not touched."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(sum(map(ord, self.name)))
            model, batch = self.make()
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter += (0.1 if parameter.dim() < 2 else 0.02) * torch.randn_like(parameter)
                for name, buffer in model.named_buffers():
                    if name.endswith("running_mean"):
                        buffer.normal_(0, 0.3)
                    if name.endswith("running_var"):
                        buffer.uniform_(0.5, 1.5)
        return model.to(dtype).train(self.train), convert(batch, dtype)


def mapped(function: Callable[[Tensor], Tensor], batch: Any) -> Any:
    """The same structure with ``function`` applied to every tensor."""
    if isinstance(batch, Tensor):
        return function(batch)
    if isinstance(batch, dict):
        return {name: mapped(function, value) for name, value in batch.items()}
    return tuple(mapped(function, value) for value in batch)


def convert(batch: Any, dtype: torch.dtype) -> Any:
    """Floating tensors in another dtype."""
    return mapped(lambda t: t.to(dtype) if t.is_floating_point() else t, batch)


def length(batch: Any) -> int:
    """How many examples a batch holds."""
    while not isinstance(batch, Tensor):
        batch = next(iter(batch.values())) if isinstance(batch, dict) else batch[0]
    return len(batch)


def cut(batch: Any, size: int | None) -> list[Any]:
    """Batches of ``size`` examples in order, the last one short; None: one batch of all."""
    n = length(batch)
    size = size or n
    return [mapped(lambda t, i=i: t[i : i + size], batch) for i in range(0, n, size)]
