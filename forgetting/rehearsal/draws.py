"""Random numbers of its own for each purpose: the global generators are neither read nor moved on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn


class Draws:
    """A generator on the CPU that is copied, pickled and stored with its state."""

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)

    def uniforms(self, count: int) -> Tensor:
        """float64 in [0, 1), one after the other, so that it does not matter how many are asked for at once."""
        return torch.rand(count, generator=self._generator, dtype=torch.float64)

    def subset(self, total: int, size: int) -> Tensor:
        """``size`` different numbers below ``total``; all of them, without a draw, where there are no more."""
        if size >= total:
            return torch.arange(total)
        return torch.randperm(total, generator=self._generator)[:size]

    def seed(self) -> int:
        """A seed for another generator."""
        return int(torch.randint(2**62, (), generator=self._generator))

    def state(self) -> Tensor:
        """Where the generator stands."""
        return self._generator.get_state()

    def restore(self, state: Tensor) -> None:
        """Go on where :meth:`state` was read."""
        self._generator.set_state(state.cpu())

    def __getstate__(self) -> Tensor:
        return self.state()

    def __setstate__(self, state: Tensor) -> None:
        self._generator = torch.Generator()
        self.restore(state)


@contextlib.contextmanager
def own_randomness(model: nn.Module, seed: int) -> Iterator[None]:
    """Let dropout and its like draw from a seed; the global generators go on afterwards as if nothing had been."""
    devices = sorted({parameter.device.index for parameter in model.parameters() if parameter.device.type == "cuda"})
    with torch.random.fork_rng(devices=devices):
        torch.default_generator.manual_seed(seed)
        for device in devices:
            torch.cuda.default_generators[device].manual_seed(seed)
        yield
