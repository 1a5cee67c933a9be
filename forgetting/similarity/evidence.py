"""The evidence of a linear model of the labels on the features, maximised over its two precisions."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from forgetting.similarity.rows import features_of, target_classes

_STEP = 0.25  # of the search, in ln t: each term of the evidence bends over a width of about 1
_HALVINGS = 60
_EXACT = 1e-20  # of |y|²: what rounding leaves of a label that the features give exactly


class Evidence(NamedTuple):
    """The largest log evidence of each class's labels, [classes], and the precisions that reach it."""

    log: Tensor
    prior: Tensor
    noise: Tensor


def logme(features: Tensor, labels: Tensor) -> float:
    r"""LogME: the log evidence of a Bayesian linear regression of the labels on the features, maximised, an example.

    .. math:: \mathrm{LogME} = \frac{1}{kn} \sum_{c} \max_{\alpha, \beta} \log
              \mathcal{N}\big(y_c;\ 0,\ \alpha^{-1} F F^\top + \beta^{-1} I\big)

    F are the features, y_c is 1 for the examples of class c and 0 for the others, k the number of classes, α the
    precision of the prior over the weights, β that of the noise. There is no bias: append a feature of ones for one.

    With t = α/β and F = U S Vᵀ, the best β for a t is n/Q(t), Q(t) = ‖y − UUᵀy‖² + Σᵢ (uᵢᵀy)²·t/(t + sᵢ²), and what is
    left, −½(n ln(2πQ(t)/n) + n + Σᵢ ln(1 + sᵢ²/t)), is maximised over t in (0, ∞], both ends included.

    **High means closer.** A log-density in nats, of either sign; it compares features of the same examples and labels.
    It is +∞ where the features give a class's labels exactly (the residual's square below 1e-20 of the labels') and
    there are more examples than their rank: repeated examples among fewer examples than features do that.

    Args:
        features: [n, d] floating.
        labels: int64 [n]. Class numbers are names: one that does not occur changes nothing.

    Raises:
        ValueError: fewer than 2 examples or classes with examples, other numbers of rows, numbers that are not finite,
            features that are all 0.

    **Cost**: one singular value decomposition, n·d·min(n, d), and some hundred evaluations of min(n, d) × classes.

    **Reference**: You et al. 2021, LogME: Practical Assessment of Pre-trained Models for Transfer Learning (arXiv
    2102.11005), algorithm 1. **Differs**: the paper iterates a fixed point in α and β, which is a stationary
    point of the same function; here its largest value is searched along t, so that slow convergence and maxima at an
    end cost nothing.

    Example:
        >>> x = torch.tensor([[1.0, 0.1], [0.9, 0.0], [0.1, 1.0], [0.0, 0.8]])
        >>> round(logme(x, torch.tensor([0, 0, 1, 1])), 2), round(logme(x, torch.tensor([0, 1, 0, 1])), 2)
        (-0.21, -1.06)
    """
    values = features_of("features", features)
    classes = target_classes(labels, len(values)).to(values.device)
    return float(maximised(values, classes).log.mean()) / len(values)


def maximised(features: Tensor, classes: Tensor) -> Evidence:
    """The largest evidence of each class.

    Args:
        features: [n, d] float64.
        classes: [n], numbers 0…k − 1 of which each occurs.
    """
    problem = _Profile.of(features, torch.nn.functional.one_hot(classes).to(features))
    t = problem.search()
    log, noise = problem.value(t), problem.noise(t)
    none = problem.without_features()
    worse = none > log
    log, noise = torch.where(worse, none, log), torch.where(worse, problem.noise(torch.inf * t), noise)
    prior = torch.where(worse, torch.inf, t * noise)
    if problem.rank < problem.n:
        unbounded = problem.rest == 0
        log = torch.where(unbounded, torch.inf, log)
        return Evidence(log, torch.where(unbounded, torch.nan, prior), torch.where(unbounded, torch.inf, noise))
    return problem.with_exact_end(Evidence(log, prior, noise))


class _Profile(NamedTuple):
    """The log evidence as a function of t = α/β alone, β being the best for it."""

    n: int
    squares: Tensor  # s² [rank]
    fits: Tensor  # (uᵀy)² [classes, rank]
    rest: Tensor  # |y − UUᵀy|² [classes]

    @classmethod
    def of(cls, features: Tensor, targets: Tensor) -> _Profile:
        left, singular, _ = torch.linalg.svd(features, full_matrices=False)
        size = float(singular[0])
        if size == 0:
            raise ValueError(f"all {features.numel()} features are 0; is it the right module?")
        kept = singular > max(features.shape) * torch.finfo(features.dtype).eps * size
        left, singular = left[:, kept], singular[kept]
        projected = left.T @ targets
        residual = (targets - left @ projected).square().sum(0)
        residual = torch.where(residual > _EXACT * targets.sum(0), residual, 0.0)
        return cls(len(features), singular.square(), projected.square().T, residual)

    @property
    def rank(self) -> int:
        return len(self.squares)

    def noise(self, t: Tensor) -> Tensor:
        """β for each class at its t."""
        share = 1 / (1 + self.squares / t[:, None])
        return self.n / (self.rest + (self.fits * share).sum(1))

    def value(self, t: Tensor) -> Tensor:
        """The log evidence of each class at its t."""
        spread = torch.log1p(self.squares / t[:, None]).sum(1)
        return -0.5 * (self.n * (math.log(2 * math.pi) - self.noise(t).log() + 1) + spread)

    def slope(self, t: Tensor) -> Tensor:
        """Its derivative by ln t, doubled."""
        share = self.squares / (self.squares + t[:, None])
        return share.sum(1) - self.noise(t) * (self.fits * share * (1 - share)).sum(1)

    def search(self) -> Tensor:
        """The best t of each class: on a grid first, then by halving between its neighbours."""
        exact = self.rest / (self.fits / self.squares).sum(1)
        lowest = torch.minimum(self.squares[-1], torch.where(exact > 0, exact / self.n, torch.inf).min())
        low, high = float(lowest.log()) - 12, float(self.squares[0].log()) + 12
        grid = torch.arange(low, high + _STEP, _STEP, dtype=torch.float64, device=self.rest.device)
        classes = torch.ones_like(self.rest)
        values = torch.stack([self.value(point.exp() * classes) for point in grid])
        best = grid[values.argmax(0)]
        low_end, high_end = best - _STEP, best + _STEP
        for _ in range(_HALVINGS):
            middle = (low_end + high_end) / 2
            rising = self.slope(middle.exp()) > 0
            low_end, high_end = torch.where(rising, middle, low_end), torch.where(rising, high_end, middle)
        return ((low_end + high_end) / 2).exp()

    def without_features(self) -> Tensor:
        """The limit t → ∞: labels are noise."""
        total = self.rest + self.fits.sum(1)
        return -0.5 * self.n * (torch.log(2 * math.pi * total / self.n) + 1)

    def with_exact_end(self, found: Evidence) -> Evidence:
        """With the limit t → 0, no noise, where the features span all labels: α = n / Σ (uᵀy)²/s²."""
        length = (self.fits / self.squares).sum(1)
        log = -0.5 * (self.n * (torch.log(2 * math.pi * length / self.n) + 1) + self.squares.log().sum())
        better = log >= found.log
        return Evidence(torch.where(better, log, found.log), torch.where(better, self.n / length, found.prior),
                        torch.where(better, torch.inf, found.noise))
