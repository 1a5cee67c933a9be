"""One model made of several: each weight a mean of theirs, weighted by how much it matters to each of them."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from forgetting.averaging.states import Buffers, check, known, like, mixable, precise, running, share, some
from forgetting.curvature import Anchored, Curvature
from forgetting.parameters import canonical

__all__ = ["fisher_merge"]


def fisher_merge(
    states: Sequence[Mapping[str, Any] | None],
    curvatures: Sequence[Curvature | Anchored],
    weights: Sequence[float] | None = None,
    *,
    floor: float = 1e-12,
    buffers: Buffers = "interpolate",
) -> dict[str, Any]:
    r"""The state of one network for the tasks of several that started from the same weights.

    .. math:: \theta_i = \frac{\sum_k \lambda_k F_{k,i}\,\theta_{k,i}}{\sum_k \lambda_k F_{k,i}}

    with :math:`\theta_k` the weights of model k, :math:`F_k` its Fisher diagonal there and :math:`\lambda_k` its
    weight: the minimum of :math:`\sum_k \lambda_k (\theta-\theta_k)^\top F_k (\theta-\theta_k)`. Every entry lies
    between the models' own; with equal importances it is :func:`interpolate`, two models with the weights
    :math:`1-\alpha` and :math:`\alpha`; entries that are equal in all come out exactly.

    **Where nothing matters.** An importance below ``floor`` times the largest of all counts as that much. So an entry
    that matters to no model is the plain mean with the weights :math:`\lambda_k`, and is not decided by the last digits
    of numbers that are about 0. A weight that a matrix does not cover (a head, a norm) counts as one that does not
    matter to that model.

    Args:
        states: the ``state_dict()`` of each model, as a copy. ``None`` where the matrix brings its weights
            (:class:`~forgetting.curvature.Anchored`, from a file): that model then has a say only where it has weights.
            The last state that is given says names, order, dtypes and devices.
        curvatures: of each model, at its weights: a diagonal of :mod:`forgetting.curvature`, or one with its anchor.
            Each a mean over examples, so that a large data set does not outvote a small one.
        weights: :math:`\lambda_k \ge 0`; ``None`` for equal ones.
        floor: in [0, 1), relative to the largest importance.
        buffers: where running statistics come from: ``"interpolate"``, the mean with the weights :math:`\lambda_k`;
            ``"before"``, the first state; ``"after"``, the last. See :func:`interpolate` on what they are worth.

    Returns:
        A state for ``model.load_state_dict``, in new memory. float16 and bfloat16 are computed in float32. What is not
        floating comes from the last state.

    Raises:
        ValueError: for fewer than two models or lists of different lengths; where names or shapes differ; where a state
            is not what its matrix was estimated at (the lists are in different orders?); where two states are the same
            memory (fault F11); for weights that are negative, not finite or all 0.
        TypeError: for a matrix that is not diagonal.

    Cost:
        One copy of the state, and a few of its largest tensor; the matrices cost what their estimates do.

    Reference:
        Matena and Raffel, "Merging Models with Fisher-Weighted Averaging", 2022 (arXiv 2111.09832), section 3.

    Differs:
        The floor is relative to the largest importance, so that scaling all matrices alike changes nothing.

    Example:
        >>> from forgetting.curvature import Diagonal
        >>> old, new = {"weight": torch.tensor([0.0, 0.0, 0.0])}, {"weight": torch.tensor([4.0, 4.0, 4.0])}
        >>> matters = [Diagonal({"weight": torch.tensor([3.0, 1.0, 0.0])}),
        ...            Diagonal({"weight": torch.tensor([1.0, 1.0, 0.0])})]
        >>> fisher_merge([old, new], matters)["weight"]
        tensor([1., 2., 2.])
    """
    if not 0 <= floor < 1:
        raise ValueError(f"floor={floor!r} must lie in [0, 1): it is a share of the largest importance")
    known(buffers)
    given, template = _fitting(states)
    models = _models(states, curvatures, weights, template)
    tied = _tied(given, {name for model in models for name in model.importance})
    kept = {"before": given[0], "after": given[-1]}.get(buffers)
    merged = {}
    for name, value in template.items():
        plain = canonical(name)
        if kept is not None and running(name):
            merged[name] = kept[plain].detach().to(value.device, value.dtype, copy=True)
        else:
            merged[name] = _merged(tied.get(plain, plain), value, models, floor)
    return like(template, merged)


@dataclass(frozen=True)
class _Model:
    """One of those that are merged, by canonical names.

    Args:
        values: its weights.
        importance: how much each of them matters.
        largest: of the importances of all models.
        weight: its share of a plain mean.
    """

    values: Mapping[str, Any]
    importance: Mapping[str, Tensor]
    largest: float
    weight: float


def _fitting(states: Sequence[Mapping[str, Any] | None]) -> tuple[list[dict[str, Any]], Mapping[str, Any]]:
    """The states that are given, by canonical names, and the last of them as it came, once all fit it."""
    given = [state for state in states if state is not None]
    if not given:
        raise ValueError("every state is None: give at least one, which says what a whole model consists of")
    plain = [{canonical(name): value for name, value in state.items()} for state in given]
    for number, state in enumerate(plain[:-1]):
        check(state, plain[-1], (), "interpolate")
        floating = [name for name, value in state.items() if mixable(value) and value.numel()]
        if floating and all(share(state[name], plain[-1][name]) for name in floating):
            raise ValueError(f"states {number} and {len(plain) - 1} are the same memory: state_dict() shares it with "
                             "the live weights; copy it when it is taken, copy.deepcopy(model.state_dict())")
    return plain, given[-1]


def _tied(states: Sequence[Mapping[str, Any]], covered: Collection[str]) -> dict[str, str]:
    """Names that no matrix covers -> a covered name that has the same values in every state: tied weights."""
    tied = {}
    for name, value in states[-1].items():
        if name in covered or not mixable(value):
            continue
        for other in covered:
            if states[-1][other].shape == value.shape and all(torch.equal(s[name], s[other]) for s in states):
                tied[name] = other
                break
    return tied


def _models(
    states: Sequence[Mapping[str, Any] | None], curvatures: Sequence[Curvature | Anchored],
    weights: Sequence[float] | None, template: Mapping[str, Any],
) -> list[_Model]:
    """The models that have a weight, each checked against its matrix."""
    factors = [1.0] * len(states) if weights is None else [float(weight) for weight in weights]
    if len(states) < 2 or not len(states) == len(curvatures) == len(factors):
        raise ValueError(f"fisher_merge takes at least two models, and as many matrices and weights; got {len(states)} "
                         f"states, {len(curvatures)} matrices and {len(factors)} weights")
    if not all(0 <= weight < math.inf for weight in factors) or not sum(factors) > 0:
        raise ValueError(f"weights={factors} must be finite, at least 0, and not all 0")
    shapes = {canonical(name): value.shape for name, value in template.items() if isinstance(value, Tensor)}
    matrices = [_matrix(number, curvature) for number, curvature in enumerate(curvatures)]
    largest = max((float(value.max()) for matrix, _ in matrices for value in matrix.values() if value.numel()),
                  default=0.0) or 1.0
    models = []
    for number, (state, (importance, anchor)) in enumerate(zip(states, matrices, strict=True)):
        _check_matrix(number, importance, shapes)
        values = _weights(number, state, anchor)
        if factors[number]:
            models.append(_Model(values, importance, largest, factors[number] / sum(factors)))
    return models


def _matrix(number: int, curvature: Curvature | Anchored) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A model's importances, and the weights that they came with, by canonical names."""
    anchor = curvature.anchor if isinstance(curvature, Anchored) else {}
    matrix = curvature.curvature if isinstance(curvature, Anchored) else curvature
    if not isinstance(matrix, Curvature) or matrix.elementwise() is None:
        raise TypeError(f"curvatures[{number}] is a {type(matrix).__name__}; merging weight by weight takes diagonals, "
                        "such as forgetting.fisher.diagonal(model, data)")
    importance = {canonical(name): value for name, value in matrix.diagonal().items()}
    return importance, {canonical(name): value for name, value in anchor.items()}


def _check_matrix(number: int, importance: Mapping[str, Tensor], shapes: Mapping[str, torch.Size]) -> None:
    """Raise for importances of what the states do not have."""
    wrong = [name for name, value in importance.items()
             if name not in shapes or (value.dim() and value.shape != shapes[name])]
    if wrong:
        raise ValueError(f"curvatures[{number}] covers what the states do not have, or have in another shape: "
                         f"{some(wrong)}; cut it to what they share by restricted(names)")


def _weights(number: int, state: Mapping[str, Any] | None, anchor: Mapping[str, Tensor]) -> Mapping[str, Any]:
    """A model's weights by canonical names, which must be those that its matrix belongs to."""
    if state is None:
        if not anchor:
            raise ValueError(f"states[{number}] is None and curvatures[{number}] brings no weights: give the state, or "
                             "the matrix with its anchor (forgetting.fisher.anchored)")
        return anchor
    values = {canonical(name): value for name, value in state.items()}
    apart = [name for name, value in anchor.items() if not _same(value, values[name])]
    if apart:
        raise ValueError(f"curvatures[{number}] was estimated at other weights than states[{number}]: {some(apart)} "
                         "differ; are the two lists in the same order?")
    return values


def _same(anchor: Tensor, value: Tensor) -> bool:
    """Whether two tensors are equal in the coarser of their dtypes."""
    dtype = min((anchor.dtype, value.dtype), key=lambda kind: kind.itemsize)
    return torch.equal(anchor.to(dtype), value.to(anchor.device, dtype))


@torch.no_grad()
def _merged(name: str, template: Any, models: Sequence[_Model], floor: float) -> Any:
    """One entry of the merged state."""
    having = [model for model in models if name in model.values]
    if not mixable(template) or not having:
        return template.detach().clone() if isinstance(template, Tensor) else template
    values = [model.values[name].detach().to(template.device, precise(template.dtype)) for model in having]
    mattering = [_mattering(model, name, floor, values[-1]) for model in having]
    total = torch.stack(mattering).sum(0)
    plain = sum(model.weight for model in having)
    merged = torch.zeros_like(values[-1])
    for model, value, matters in zip(having, values, mattering, strict=True):
        merged += torch.where(total > 0, matters / total, model.weight / plain) * value
    equal = torch.stack([value == values[-1] for value in values]).all(0)
    return torch.where(equal, values[-1], merged).to(template.dtype)


def _mattering(model: _Model, name: str, floor: float, value: Tensor) -> Tensor:
    """λ·F of one entry, with F relative to the largest of all and at least ``floor``."""
    real = value.abs().dtype
    found = model.importance.get(name, torch.zeros((), dtype=real))
    relative = (found.to(value.device, torch.promote_types(found.dtype, real)) / model.largest).clamp(min=floor)
    return (model.weight * relative).to(real).expand(value.shape)
