"""Whether two tasks depend on the same weights."""

from __future__ import annotations

import torch

from forgetting.curvature import Diagonal


def fisher_distance(one: Diagonal, other: Diagonal) -> float:
    r"""The squared Fréchet distance between two tasks' Fisher information, each scaled to the trace 1.

    .. math:: d^2 = \tfrac12 \operatorname{tr}\big(\hat F_1 + \hat F_2 - 2\,(\hat F_1 \hat F_2)^{1/2}\big)
              = \tfrac12 \sum_i \Big(\sqrt{\hat F_{1,i}} - \sqrt{\hat F_{2,i}}\Big)^2,
              \quad \hat F = F / \operatorname{tr} F

    1 − d² is the paper's Fisher overlap: whether the two tasks use the same weights. It does not depend on the scale
    of either matrix.

    **High means farther.** Range [0, 1]: 0 for matrices that are multiples of each other, 1 where no weight matters to
    both tasks.

    Args:
        one: of the same model at the same weights, say ``forgetting.fisher.diagonal(model, source)``.
        other: the same of the other task, estimated with the same labels; a head that only one task has is left out
            of both (``parameters=``).

    Raises:
        TypeError: for a matrix that is not diagonal.
        ValueError: other names or shapes; a trace of 0.

    **Cost**: one pass over both matrices; in float64, one parameter at a time.

    **Reference**: Kirkpatrick et al. 2017 (arXiv 1612.00796), §4.3, Fisher overlap. **Differs**: one figure over all
    parameters where the paper has one a layer: ``restricted`` matrices give those.

    Example:
        >>> one = Diagonal({"w": torch.tensor([1.0, 3.0, 0.0])})
        >>> fisher_distance(one, one.scaled(7.0)), fisher_distance(one, Diagonal({"w": torch.tensor([0.0, 0.0, 2.0])}))
        (0.0, 1.0)
    """
    for matrix in (one, other):
        if not isinstance(matrix, Diagonal):
            raise TypeError(f"fisher_distance takes two Diagonal matrices, got a {type(matrix).__name__}; a Kronecker "
                            "matrix has .diagonal(): Diagonal(matrix.diagonal())")
    _check_names(one, other)
    scales = one.trace(), other.trace()
    if min(scales) <= 0:
        raise ValueError(f"the traces are {scales[0]:g} and {scales[1]:g}: a task on which no weight matters has no "
                         "distance to another")
    total = 0.0
    for name, value in one.items():
        first = (value.to(torch.float64) / scales[0]).sqrt()
        second = (other[name].to(first.device, torch.float64) / scales[1]).sqrt()
        total += float((first - second).square().sum())
    return total / 2


def _check_names(one: Diagonal, other: Diagonal) -> None:
    """Raise where two matrices do not cover the same weights."""
    alone = sorted(set(one) ^ set(other))
    if alone:
        raise ValueError(f"the two matrices cover other parameters: {', '.join(alone[:8])} in one of them only; "
                         "compare what both have, matrix.restricted(names)")
    for name, value in one.items():
        if value.shape != other[name].shape:
            raise ValueError(f"{name!r} has the shapes {tuple(value.shape)} and {tuple(other[name].shape)}: a head of "
                             "another size belongs to one task only; leave it out of both, matrix.restricted(names)")
