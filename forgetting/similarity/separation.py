"""How much of the features' spread lies between the target's classes."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from forgetting.similarity.rows import centred, features_of, target_classes


def h_score(features: Tensor, labels: Tensor) -> float:
    r"""The H-score: the features' covariance between classes, against their whole covariance.

    .. math:: H = \operatorname{tr}\big(\operatorname{cov}(f)^{+}\,\operatorname{cov}(\mathbb{E}[f \mid y])\big)
              = \sum_c n_c\,\lVert \bar u_c \rVert^2

    with f the features, U S Vᵀ the singular values and vectors of the centred features, and ū_c the mean of U's rows
    over the n_c examples of class c. It does not change under invertible affine maps of the features.

    **High means closer.** Range [0, min(rank, classes − 1)]. Independent features and labels give about
    rank·(classes − 1)/n, not 0; at n ≤ rank + 1 it is classes − 1 whatever the labels are, which a warning says: take
    several times more examples than features.

    Args:
        features: [n, d] floating.
        labels: int64 [n]. Class numbers are names: one that does not occur changes nothing.

    Raises:
        ValueError: fewer than 2 examples or classes with examples, other numbers of rows, numbers that are not finite,
            features that are the same for all examples.
        UserWarning: (a warning) where the examples are too few for their rank.

    **Cost**: one singular value decomposition, n·d·min(n, d).

    **Reference**: Bao et al. 2019, An Information-Theoretic Approach to Transferability in Task Transfer Learning.
    **Differs**: a pseudo-inverse where the covariance is singular; singular values that rounding in the
    features' dtype explains count as 0.

    Example:
        >>> x = torch.tensor([[0.0], [1.0], [4.0], [5.0]])
        >>> round(h_score(x, torch.tensor([0, 0, 1, 1])), 4), h_score(x, torch.tensor([0, 1, 1, 0]))  # 4 of 4.25
        (0.9412, 0.0)
    """
    values = features_of("features", features)
    classes = target_classes(labels, len(values)).to(values.device)
    around, rounding = centred("features", values, features.dtype)
    left, singular, _ = torch.linalg.svd(around, full_matrices=False)
    basis = left[:, singular > rounding]
    n, rank = basis.shape
    if n <= rank + 1:
        warnings.warn(f"{n} examples with features of rank {rank} have the H-score classes − 1 whatever their labels "
                      f"are: take more than {10 * rank}, or fewer features", UserWarning, stacklevel=2)
    sums = basis.new_zeros(int(classes.max()) + 1, rank).index_add_(0, classes, basis)
    return float((sums.square().sum(1) / classes.bincount()).sum())
