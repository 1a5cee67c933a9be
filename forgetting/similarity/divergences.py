"""How far apart two samples of features are, whatever their labels."""

from __future__ import annotations

import torch
from torch import Tensor

from forgetting.similarity.rows import features_of, same_width


def mmd(one: Tensor, other: Tensor, *, bandwidth: float | None = None) -> float:
    r"""The squared maximum mean discrepancy of two samples, unbiased, under a Gaussian kernel.

    .. math:: \mathrm{MMD}_u^2 = \frac{1}{m(m-1)} \sum_{i \ne j} k(x_i, x_j) + \frac{1}{n(n-1)} \sum_{i \ne j}
              k(y_i, y_j) - \frac{2}{mn} \sum_{i,j} k(x_i, y_j), \quad k(x, y) = e^{-\lVert x - y\rVert^2 / 2\sigma^2}

    σ is the median distance between two examples of both samples together.

    **High means farther.** Expectation in [0, 2], 0 exactly for equal distributions; the estimate may fall below 0, by
    the order of 1/m. The median grows with the distance between the samples, so that of tight ones far apart, equal in
    size, it is 2 − 2e^(−1/2) ≈ 0.79 however far: a fixed ``bandwidth`` orders those.

    Args:
        one: [m, d] floating.
        other: [n, d] floating, features of the same module.
        bandwidth: σ > 0. Figures of several pairs of tasks compare strictly at one σ only.

    Raises:
        ValueError: fewer than 2 examples in a sample, other numbers of features, numbers that are not finite, a
            bandwidth that is not positive, a median distance of 0 (most examples are equal).

    **Cost**: (m + n)²·d, and memory of about three times (m + n)² numbers: 4 000 examples take 0.4 GB.

    **Reference**: Gretton et al. 2012, A Kernel Two-Sample Test, lemma 6 eq. 3; §8 for the median. **Differs**:
    nothing; of an even number of distances the lower of the two middle ones.

    Example:
        >>> x = torch.tensor([[0.0], [1.0], [2.0]])
        >>> round(mmd(x, x + 10), 4), round(mmd(x, x + 100), 4), mmd(x, x) <= 0
        (0.8947, 0.799, True)
    """
    x, y = features_of("the first sample", one), features_of("the second sample", other)
    same_width(x, y)
    pooled = torch.cat([x, y.to(x.device)])
    squares = _squared_distances(pooled - pooled.mean(0))
    if bandwidth is None:
        apart = torch.ones_like(squares, dtype=torch.bool).triu_(1)
        bandwidth = float(squares[apart].median().sqrt())
        if bandwidth == 0:
            raise ValueError("the median distance between two examples is 0: most of them have the same features; "
                             "leave out repetitions, or choose bandwidth=")
    if not 0 < bandwidth < float("inf"):
        raise ValueError(f"bandwidth= must be a positive distance, got {bandwidth}")
    kernel = squares.div_(-2 * bandwidth**2).exp_()
    m, n = len(x), len(y)
    kernel.fill_diagonal_(0)
    within = kernel[:m, :m].sum() / (m * (m - 1)) + kernel[m:, m:].sum() / (n * (n - 1))
    return float(within - 2 * kernel[:m, m:].mean())


def frechet(one: Tensor, other: Tensor) -> float:
    r"""The squared Fréchet distance between two samples, each taken for a normal distribution; of Inception's: FID.

    .. math:: d^2 = \lVert \mu_1 - \mu_2 \rVert^2 + \operatorname{tr}\big(\Sigma_1 + \Sigma_2
              - 2\,(\Sigma_1 \Sigma_2)^{1/2}\big)

    μ are the means, Σ the covariances (divided by n − 1).

    **High means farther.** Range [0, ∞), in squared units of the features, 0 for equal means and covariances. It is
    biased upwards, by the order of d/n of the features' total variance: compare figures of equal numbers of examples
    only.

    Args:
        one: [m, d] floating.
        other: [n, d] floating, features of the same module. Fewer examples than features are fine.

    Raises:
        ValueError: fewer than 2 examples in a sample, other numbers of features, numbers that are not finite.

    **Cost**: (m + n)·d² + d³, and memory of a few d²; less where there are fewer examples than features.

    **Reference**: Heusel et al. 2017, GANs Trained by a Two Time-Scale Update Rule (arXiv 1706.08500), eq. 6; Dowson &
    Landau 1982. **Differs**: the trace of the root is computed as the sum of the singular values of R₁R₂ᵀ, with Σ =
    RᵀR, which needs no root of a matrix and no positive definite covariance.

    Example:
        >>> x = torch.tensor([[0.0], [1.0], [2.0]])
        >>> frechet(x, x), frechet(x, 3 * x + 1)  # means 1 and 4, standard deviations 1 and 3
        (0.0, 13.0)
    """
    x, y = features_of("the first sample", one), features_of("the second sample", other)
    same_width(x, y)
    y = y.to(x.device)
    middle = torch.cat([x, y]).mean(0)
    x, y = x - middle, y - middle
    roots = [torch.linalg.qr(value - value.mean(0))[1] / (len(value) - 1) ** 0.5 for value in (x, y)]
    common = torch.linalg.svdvals(roots[0] @ roots[1].T).sum()
    spread = sum(root.square().sum() for root in roots) - 2 * common
    return float((x.mean(0) - y.mean(0)).square().sum() + spread.clamp(min=0))


def _squared_distances(centred: Tensor) -> Tensor:
    """‖xᵢ − xⱼ‖² of all pairs, of features around 0."""
    norms = centred.square().sum(1)
    return torch.addmm(norms[:, None] + norms, centred, centred.T, alpha=-2).clamp_(min=0).fill_diagonal_(0)
