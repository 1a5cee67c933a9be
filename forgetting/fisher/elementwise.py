"""Likelihoods of outputs that are independent of each other: yes or no, and numbers with errors."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor

from forgetting.fisher.columns import Columns
from forgetting.fisher.likelihoods import Likelihood, at_least_float32, cap, random_signs, uniforms


class _Elementwise(Likelihood):
    """Likelihoods whose output elements are independent."""

    def check(self, outputs: Tensor, targets: Tensor) -> None:
        if targets.shape != outputs.shape:
            raise ValueError(
                f"{type(self).__name__} expects targets of the outputs' shape {tuple(outputs.shape)}, got "
                f"{tuple(targets.shape)}"
            )

    def exact(self, outputs: Tensor, targets: Tensor) -> Iterator[Tensor]:
        deviation = self.deviation(at_least_float32(outputs)).reshape(len(outputs), -1)
        cap(deviation.shape[1], f"{deviation.shape[1]} outputs")
        for element in range(deviation.shape[1]):
            vector = torch.zeros_like(deviation)
            vector[:, element] = deviation[:, element]
            yield vector.reshape(outputs.shape).to(outputs.dtype)

    def largest(self, outputs: Tensor, targets: Tensor, tolerance: float) -> Columns:
        raise ValueError(f"tolerance= drops directions of a Categorical; {type(self).__name__} has none to drop")

    def signed(self, outputs: Tensor, targets: Tensor, generator: torch.Generator) -> Iterator[Tensor]:
        deviation = self.deviation(at_least_float32(outputs))
        yield (deviation * random_signs(deviation.shape, generator, deviation)).to(outputs.dtype)

    @abstractmethod
    def deviation(self, outputs: Tensor) -> Tensor:
        """The standard deviation of each element's score."""


class Bernoulli(_Elementwise):
    """Independent yes/no outputs: z holds logits, targets probabilities in [0, 1], both of one shape.

    Example:
        >>> Bernoulli().empirical(torch.zeros(1, 1), torch.ones(1, 1))
        tensor([[0.5000]])
    """

    def check(self, outputs: Tensor, targets: Tensor) -> None:
        super().check(outputs, targets)
        if ((targets < 0) | (targets > 1)).any():
            raise ValueError(f"Bernoulli expects targets in [0, 1], got up to {float(targets.abs().max())}")

    def deviation(self, outputs: Tensor) -> Tensor:
        p = torch.sigmoid(outputs)
        return (p * torch.sigmoid(-outputs)).sqrt()

    def sampled(self, outputs: Tensor, targets: Tensor, generator: torch.Generator) -> Tensor:
        drawn = uniforms(outputs.shape, generator, outputs) < torch.sigmoid(outputs.detach().double())
        return self.empirical(outputs, drawn)

    def empirical(self, outputs: Tensor, targets: Tensor) -> Tensor:
        z = at_least_float32(outputs)
        return (targets.to(z.dtype) - torch.sigmoid(z)).to(outputs.dtype)


class Gaussian(_Elementwise):
    """Regression with independent errors of one variance: y ~ N(z, variance).

    Args:
        variance: of the errors, in the targets' unit squared, > 0; ½(y−z)² as a loss means 1.

    Example:
        >>> Gaussian().empirical(torch.zeros(1, 1), torch.ones(1, 1))
        tensor([[1.]])
    """

    def __init__(self, variance: float = 1.0) -> None:
        if not 0 < variance < float("inf"):
            raise ValueError(f"variance must be positive and finite, got {variance}")
        self.variance = variance

    def deviation(self, outputs: Tensor) -> Tensor:
        return torch.full_like(outputs, self.variance**-0.5)

    def sampled(self, outputs: Tensor, targets: Tensor, generator: torch.Generator) -> Tensor:
        error = torch.special.ndtri(uniforms(outputs.shape, generator, outputs))
        return (error * self.variance**-0.5).to(outputs.dtype)

    def empirical(self, outputs: Tensor, targets: Tensor) -> Tensor:
        z = at_least_float32(outputs)
        return ((targets.to(z.dtype) - z) / self.variance).to(outputs.dtype)
