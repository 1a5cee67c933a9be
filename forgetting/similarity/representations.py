"""How alike two representations of the same examples are."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from forgetting.similarity.rows import centred, features_of


def cka(one: Tensor, other: Tensor, *, unbiased: bool = False) -> float:
    r"""Linear CKA: how alike two models, or two layers, arrange the same examples.

    .. math:: \mathrm{CKA} = \frac{\lVert Y^\top X \rVert_F^2}{\lVert X^\top X \rVert_F\,\lVert Y^\top Y \rVert_F}

    with X and Y the centred features. It does not change under orthogonal maps, isotropic scaling and translation of
    either side. It compares representations of the SAME inputs: of a model before and after, or of two models that
    were trained on two tasks. It is no distance between two data sets.

    **High means closer.** Range [0, 1], 1 for equality up to such maps. With fewer examples than features it is near 1
    for unrelated features too; ``unbiased`` is then about 0, in (−∞, 1].

    Args:
        one: [n, d₁] floating.
        other: [n, d₂] floating, of the same examples in the same order.
        unbiased: replace each squared norm by its unbiased estimate, HSIC₁ (Song et al. 2012), for 4 examples and
            more.

    Raises:
        ValueError: fewer than 2 examples (4 for unbiased ones), other numbers of rows, numbers that are not finite,
            features that are the same for all examples; unbiased estimates of a spread that are not positive.

    **Cost**: n·d₁·d₂ and memory of d₁·d₂, or n²·(d₁ + d₂) and n² where that is less; always the latter for unbiased
    ones.

    **Reference**: Kornblith et al. 2019, Similarity of Neural Network Representations Revisited (arXiv 1905.00414),
    §3; Nguyen, Raghu & Kornblith 2021 (arXiv 2010.15327) for HSIC₁ in it. **Differs**: nothing.

    Example:
        >>> x = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 1.0], [0.0, 0.0]])
        >>> round(cka(x, 5 * x @ torch.tensor([[0.0, 1.0], [-1.0, 0.0]])), 10)
        1.0
    """
    least = 4 if unbiased else 2
    x, y = features_of("the first features", one, least), features_of("the second features", other, least)
    if len(x) != len(y):
        raise ValueError(f"the two representations have {len(x)} and {len(y)} rows: CKA compares features of the same "
                         "examples in the same order")
    x, _ = centred("the first features", x, one.dtype)
    y, _ = centred("the second features", y.to(x.device), other.dtype)
    product = _unbiased if unbiased else _product
    spreads = product(x, x), product(y, y)
    if min(spreads) <= 0:
        raise ValueError(f"the unbiased estimates of the two spreads are {spreads[0]:.3g} and {spreads[1]:.3g}, of "
                         f"{len(x)} examples; take more examples")
    return product(x, y) / math.sqrt(spreads[0] * spreads[1])


def _product(x: Tensor, y: Tensor) -> float:
    """‖YᵀX‖², by way of the smaller matrices."""
    if x.shape[1] * y.shape[1] <= len(x) ** 2:
        return float((y.T @ x).square().sum())
    return float(((x @ x.T) * (y @ y.T)).sum())


def _unbiased(x: Tensor, y: Tensor) -> float:
    """HSIC₁ of two linear kernels."""
    n = len(x)
    k, l = (value @ value.T for value in (x, y))  # noqa: E741
    k.fill_diagonal_(0)
    l.fill_diagonal_(0)
    means = k.sum() * l.sum() / ((n - 1) * (n - 2)) - 2 * torch.dot(k.sum(0), l.sum(0)) / (n - 2)
    return float(((k * l).sum() + means) / (n * (n - 3)))
