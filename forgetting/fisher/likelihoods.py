"""What a model's outputs mean: the distribution p(y | z) whose score the Fisher information averages.

Every likelihood answers one question: which vectors v over the outputs z have squares that add up to the score's
second moment? With J the Jacobian of one example's outputs by the weights, F = Σₖ (Jᵀvₖ)² is then K backwards.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor

EXACT_CAP = 256
_SMALLEST = 2.0**-54


class Likelihood(ABC):
    """p(y | z); z has the examples in its first dimension."""

    @abstractmethod
    def check(self, outputs: Tensor, targets: Tensor) -> None:
        """Raise where outputs and targets do not fit each other."""

    @abstractmethod
    def exact(self, outputs: Tensor, targets: Tensor, tolerance: float) -> Iterator[Tensor]:
        """Vectors v of z's shape with Σ vvᵀ = E[∇ᵤ log p ∇ᵤ log pᵀ] under the model's own predictive."""

    @abstractmethod
    def sampled(self, outputs: Tensor, targets: Tensor, generator: torch.Generator) -> Tensor:
        """The score of one draw from the model's own predictive."""

    @abstractmethod
    def empirical(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The score of the data's own targets."""


def _cap(count: int, what: str) -> None:
    if count > EXACT_CAP:
        raise ValueError(
            f'labels="exact" would take {count} backwards a batch ({what}), more than the {EXACT_CAP} that are '
            'sensible; use labels="sampled", which is unbiased at one backward'
        )


def _uniforms(shape: torch.Size, generator: torch.Generator, like: Tensor) -> Tensor:
    """float64 uniforms in (0, 1), drawn example after example, so that batch sizes do not matter."""
    drawn = torch.rand(shape, generator=generator, dtype=torch.float64, device=generator.device)
    return drawn.clamp(_SMALLEST, 1 - _SMALLEST).to(like.device)


def _at_least_float32(outputs: Tensor) -> Tensor:
    return outputs.detach().to(torch.promote_types(outputs.dtype, torch.float32))


class Categorical(Likelihood):
    """Softmax over the last dimension; outputs [examples, classes], or [examples, positions…, classes].

    Positions are independent labels given the outputs; the score of an example is the SUM over its valid positions.

    Args:
        ignore_index: targets with this value do not count; an example of nothing else stays in the mean, as a zero.

    Example:
        >>> z = torch.zeros(1, 2)
        >>> Categorical().empirical(z, torch.tensor([1]))
        tensor([[-0.5000,  0.5000]])
    """

    def __init__(self, ignore_index: int = -100) -> None:
        self.ignore_index = ignore_index

    def check(self, outputs: Tensor, targets: Tensor) -> None:
        if outputs.ndim < 2:
            raise ValueError(f"Categorical expects outputs [examples, …, classes], got shape {tuple(outputs.shape)}")
        self.check_kind(targets)
        if targets.shape != outputs.shape[:-1]:
            raise ValueError(
                f"Categorical expects integer targets of shape {tuple(outputs.shape[:-1])}, got {targets.dtype} of "
                f"shape {tuple(targets.shape)}"
            )

    def check_kind(self, targets: Tensor) -> None:
        """Raise where targets are no whole numbers."""
        if targets.is_floating_point() or targets.dtype == torch.bool:
            raise ValueError(f"{type(self).__name__} expects integer targets, got {targets.dtype}")

    def ignoring(self, index: int) -> Categorical:
        """The same likelihood for targets that mark what does not count by another number."""
        other = copy.copy(self)
        other.ignore_index = index
        return other

    def _valid(self, targets: Tensor) -> Tensor:
        return (targets != self.ignore_index).unsqueeze(-1)

    def exact(self, outputs: Tensor, targets: Tensor, tolerance: float) -> Iterator[Tensor]:
        classes = outputs.shape[-1]
        positions = max(1, outputs[0, ..., 0].numel())
        _cap(positions * classes, f"{positions} positions × {classes} outputs")
        probabilities = torch.softmax(_at_least_float32(outputs), -1).reshape(len(outputs), positions, classes)
        valid = self._valid(targets).reshape(len(outputs), positions, 1)
        for position in range(positions):
            if not valid[:, position].any():
                continue
            p = probabilities[:, position] * valid[:, position]
            for vector in _cholesky(p, tolerance) if tolerance else _classwise(p):
                whole = torch.zeros_like(probabilities)
                whole[:, position] = vector
                yield whole.reshape(outputs.shape).to(outputs.dtype)

    def sampled(self, outputs: Tensor, targets: Tensor, generator: torch.Generator) -> Tensor:
        cumulative = torch.softmax(outputs.detach().double(), -1).cumsum(-1)
        uniforms = _uniforms(outputs.shape[:-1], generator, outputs)
        drawn = torch.searchsorted(cumulative, uniforms.unsqueeze(-1)).squeeze(-1).clamp(max=outputs.shape[-1] - 1)
        return self._score(outputs, drawn, self._valid(targets))

    def empirical(self, outputs: Tensor, targets: Tensor) -> Tensor:
        valid = self._valid(targets)
        return self._score(outputs, targets.masked_fill(~valid.squeeze(-1), 0), valid)

    def _score(self, outputs: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
        score = -torch.softmax(_at_least_float32(outputs), -1)
        score.scatter_add_(-1, labels.unsqueeze(-1), torch.ones_like(score[..., :1]))
        return (score * valid).to(outputs.dtype)


def _classwise(p: Tensor) -> Iterator[Tensor]:
    """√p_c·(e_c − p), whose squares add up to diag(p) − ppᵀ."""
    for c in range(p.shape[-1]):
        vector = -p
        vector[:, c] += p.sum(-1)
        yield vector * p[:, c : c + 1].sqrt()


def _cholesky(p: Tensor, tolerance: float) -> Iterator[Tensor]:
    """Columns of diag(p) − ppᵀ by pivoted Cholesky, until the dropped trace is at most ``tolerance`` of the whole."""
    rest = torch.diag_embed(p) - p.unsqueeze(-1) * p.unsqueeze(-2)
    allowed = tolerance * float(rest.diagonal(dim1=-2, dim2=-1).sum())
    for _ in range(p.shape[-1]):
        diagonal = rest.diagonal(dim1=-2, dim2=-1).clamp(min=0)
        if float(diagonal.sum()) <= allowed:
            return
        largest, pivot = diagonal.max(-1, keepdim=True)
        column = rest.gather(-1, pivot.unsqueeze(-2).expand(-1, p.shape[-1], -1)).squeeze(-1)
        vector = torch.where(largest > 0, column / largest.sqrt().clamp(min=torch.finfo(p.dtype).tiny), 0.0)
        yield vector
        rest = rest - vector.unsqueeze(-1) * vector.unsqueeze(-2)


class CausalLanguageModel(Categorical):
    """Next-token prediction: the outputs at position t are scored by the target at t + 1.

    Outputs [sequences, positions, vocabulary]; targets [sequences, positions], unshifted, as ``input_ids`` or the
    ``labels`` of a Hugging Face batch. An example is one SEQUENCE.

    Args:
        ignore_index: targets with this value (padding) do not count.

    Example:
        >>> z = torch.zeros(1, 3, 2)
        >>> CausalLanguageModel().empirical(z, torch.tensor([[0, 1, 1]]))[0, :, 1]
        tensor([0.5000, 0.5000, 0.0000])
    """

    def check(self, outputs: Tensor, targets: Tensor) -> None:
        if outputs.ndim != 3 or outputs.shape[1] < 2:
            raise ValueError(
                "CausalLanguageModel expects outputs [sequences, positions ≥ 2, vocabulary], got shape "
                f"{tuple(outputs.shape)}"
            )
        super().check(outputs, targets)

    def exact(self, outputs: Tensor, targets: Tensor, tolerance: float) -> Iterator[Tensor]:
        for vector in super().exact(outputs[:, :-1], targets[:, 1:], tolerance):
            yield self._widen(vector)

    def sampled(self, outputs: Tensor, targets: Tensor, generator: torch.Generator) -> Tensor:
        return self._widen(super().sampled(outputs[:, :-1], targets[:, 1:], generator))

    def empirical(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return self._widen(super().empirical(outputs[:, :-1], targets[:, 1:]))

    @staticmethod
    def _widen(vector: Tensor) -> Tensor:
        return torch.nn.functional.pad(vector, (0, 0, 0, 1))


class _Elementwise(Likelihood):
    """Likelihoods whose output elements are independent."""

    def check(self, outputs: Tensor, targets: Tensor) -> None:
        if targets.shape != outputs.shape:
            raise ValueError(
                f"{type(self).__name__} expects targets of the outputs' shape {tuple(outputs.shape)}, got "
                f"{tuple(targets.shape)}"
            )

    def exact(self, outputs: Tensor, targets: Tensor, tolerance: float) -> Iterator[Tensor]:
        if tolerance:
            raise ValueError(f"tolerance= drops directions of a Categorical; {type(self).__name__} has none to drop")
        deviation = self.deviation(_at_least_float32(outputs)).reshape(len(outputs), -1)
        _cap(deviation.shape[1], f"{deviation.shape[1]} outputs")
        for element in range(deviation.shape[1]):
            vector = torch.zeros_like(deviation)
            vector[:, element] = deviation[:, element]
            yield vector.reshape(outputs.shape).to(outputs.dtype)

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
        drawn = _uniforms(outputs.shape, generator, outputs) < torch.sigmoid(outputs.detach().double())
        return self.empirical(outputs, drawn)

    def empirical(self, outputs: Tensor, targets: Tensor) -> Tensor:
        z = _at_least_float32(outputs)
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
        error = torch.special.ndtri(_uniforms(outputs.shape, generator, outputs))
        return (error * self.variance**-0.5).to(outputs.dtype)

    def empirical(self, outputs: Tensor, targets: Tensor) -> Tensor:
        z = _at_least_float32(outputs)
        return ((targets.to(z.dtype) - z) / self.variance).to(outputs.dtype)


def infer(outputs: Tensor, targets: Tensor) -> Likelihood:
    """The likelihood of two-dimensional outputs with integer targets; anything else must be named."""
    whole = not targets.is_floating_point() and targets.dtype != torch.bool
    if outputs.ndim == 2 and targets.ndim == 1 and whole:
        return Categorical()
    raise ValueError(
        f"likelihood=None cannot tell what outputs of shape {tuple(outputs.shape)} with targets of shape "
        f"{tuple(targets.shape)} and dtype {targets.dtype} mean: pass likelihood=Categorical() (a label a position), "
        "CausalLanguageModel() (the next token), Bernoulli() or Gaussian() from forgetting.fisher"
    )
