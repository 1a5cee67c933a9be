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

from forgetting.fisher.columns import Columns, Pivoted, factored

EXACT_CAP = 256
_SMALLEST = 2.0**-54


class Likelihood(ABC):
    """p(y | z); z has the examples in its first dimension."""

    @abstractmethod
    def check(self, outputs: Tensor, targets: Tensor) -> None:
        """Raise where outputs and targets do not fit each other."""

    @abstractmethod
    def exact(self, outputs: Tensor, targets: Tensor) -> Iterator[Tensor]:
        """Vectors v of z's shape with Σ vvᵀ = E[∇ᵤ log p ∇ᵤ log pᵀ] under the model's own predictive."""

    @abstractmethod
    def largest(self, outputs: Tensor, targets: Tensor, tolerance: float) -> Columns:
        """The largest of such vectors, that leave out at most this share of the trace."""

    @abstractmethod
    def signed(self, outputs: Tensor, targets: Tensor, generator: torch.Generator) -> Iterator[Tensor]:
        """Such vectors, those of independent outputs added up under independent random signs: Σ vvᵀ is right in the
        mean, as signs have no product."""

    @abstractmethod
    def sampled(self, outputs: Tensor, targets: Tensor, generator: torch.Generator) -> Tensor:
        """The score of one draw from the model's own predictive."""

    @abstractmethod
    def empirical(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The score of the data's own targets."""


def cap(count: int, what: str, labels: str = "exact") -> None:
    """Raise for more backwards than are sensible."""
    if count > EXACT_CAP:
        raise ValueError(
            f'labels="{labels}" would take {count} backwards a batch ({what}), more than the {EXACT_CAP} that are '
            'sensible; use labels="sampled", which is unbiased at one backward'
        )


def uniforms(shape: torch.Size, generator: torch.Generator, like: Tensor) -> Tensor:
    """float64 uniforms in (0, 1), drawn example after example, so that batch sizes do not matter."""
    drawn = torch.rand(shape, generator=generator, dtype=torch.float64, device=generator.device)
    return drawn.clamp(_SMALLEST, 1 - _SMALLEST).to(like.device)


def random_signs(shape: torch.Size, generator: torch.Generator, like: Tensor) -> Tensor:
    """−1 or 1, drawn example after example."""
    return torch.where(uniforms(shape, generator, like) < 0.5, -1.0, 1.0).to(like.dtype)


def at_least_float32(outputs: Tensor) -> Tensor:
    """Detached, in float32 or better."""
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

    def exact(self, outputs: Tensor, targets: Tensor) -> Iterator[Tensor]:
        p = self._predictive(outputs, targets)
        cap(p.shape[1] * p.shape[2], f"{p.shape[1]} positions × {p.shape[2]} outputs")
        for position in range(p.shape[1]):
            for vector in _falling(p[:, position]) if (p[:, position] > 0).any() else ():
                whole = torch.zeros_like(p)
                whole[:, position] = vector
                yield whole.reshape(outputs.shape).to(outputs.dtype)

    def largest(self, outputs: Tensor, targets: Tensor, tolerance: float) -> Columns:
        p = self._predictive(outputs, targets)
        cap(p.shape[1] * p.shape[2], f"{p.shape[1]} positions × {p.shape[2]} outputs")
        columns = factored(p, tolerance)
        return Columns(columns.vectors.reshape(-1, *outputs.shape).to(outputs.dtype), columns.counts)

    def signed(self, outputs: Tensor, targets: Tensor, generator: torch.Generator) -> Iterator[Tensor]:
        p = self._predictive(outputs, targets)
        cap(p.shape[2], f"{p.shape[2]} outputs", "signed")
        signs = random_signs(p.shape, generator, p)
        for c, vector in enumerate(_falling(p)):
            yield (vector * signs[..., c : c + 1]).reshape(outputs.shape).to(outputs.dtype)

    def _predictive(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """p [examples, positions, classes]; zeros where a position does not count."""
        classes = outputs.shape[-1]
        p = torch.softmax(at_least_float32(outputs), -1).reshape(len(outputs), -1, classes)
        return p * self._valid(targets).reshape(len(outputs), -1, 1)

    def sampled(self, outputs: Tensor, targets: Tensor, generator: torch.Generator) -> Tensor:
        return self._score(outputs, self._drawn(outputs, generator), targets == self.ignore_index)

    def empirical(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return self._score(outputs, targets, targets == self.ignore_index)

    def _drawn(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        """One label a position, an example at a time: float64 of a whole vocabulary is large."""
        levels = uniforms(outputs.shape[:-1], generator, outputs).unsqueeze(-1)
        labels = torch.empty_like(levels, dtype=torch.long)
        for one, level, label in zip(outputs.detach(), levels, labels, strict=True):
            torch.searchsorted(one.double().softmax(-1).cumsum(-1), level, out=label)
        return labels.squeeze(-1).clamp(max=outputs.shape[-1] - 1)

    def _score(self, outputs: Tensor, labels: Tensor, ignored: Tensor) -> Tensor:
        """e_label − p, 0 where a position does not count; in one copy of the outputs."""
        some = bool(ignored.any())
        labels = labels.masked_fill(ignored, 0) if some else labels
        score = torch.softmax(at_least_float32(outputs), -1).neg_()
        score.scatter_add_(-1, labels.unsqueeze(-1), torch.ones_like(score[..., :1]))
        if some:
            score[ignored] = 0
        return score.to(outputs.dtype)


def _falling(p: Tensor) -> Iterator[Tensor]:
    """One vector a class but one, whose squares add up to diag(p) − ppᵀ: its rank is one less than its classes."""
    factor = Pivoted.of(p)
    for step in range(p.shape[-1] - 1):
        yield factor.column(step)


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

    def exact(self, outputs: Tensor, targets: Tensor) -> Iterator[Tensor]:
        yield from map(self._widen, super().exact(outputs[:, :-1], targets[:, 1:]))

    def largest(self, outputs: Tensor, targets: Tensor, tolerance: float) -> Columns:
        columns = super().largest(outputs[:, :-1], targets[:, 1:], tolerance)
        return Columns(self._widen(columns.vectors), columns.counts)

    def signed(self, outputs: Tensor, targets: Tensor, generator: torch.Generator) -> Iterator[Tensor]:
        yield from map(self._widen, super().signed(outputs[:, :-1], targets[:, 1:], generator))

    def sampled(self, outputs: Tensor, targets: Tensor, generator: torch.Generator) -> Tensor:
        labels = torch.nn.functional.pad(self._drawn(outputs[:, :-1], generator), (0, 1))
        return self._score(outputs, labels, self._next(targets) == self.ignore_index)

    def empirical(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return super().empirical(outputs, self._next(targets))

    def _next(self, targets: Tensor) -> Tensor:
        """The target of each position; the last has none."""
        return torch.nn.functional.pad(targets[:, 1:], (0, 1), value=self.ignore_index)

    @staticmethod
    def _widen(vector: Tensor) -> Tensor:
        return torch.nn.functional.pad(vector, (0, 0, 0, 1))


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
