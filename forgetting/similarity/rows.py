"""One row an example: features, probabilities and labels, checked, in float64."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

_NORMALISED = 1e-2  # what rows of bfloat16 probabilities may miss 1 by


def features_of(name: str, value: Any, least: int = 2) -> Tensor:
    """Features [examples, features] in float64, or an error that says what is wrong with them."""
    if not isinstance(value, Tensor) or not value.is_floating_point():
        kind = f"a tensor of {value.dtype}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
        raise TypeError(f"{name} must be a floating tensor [examples, features], got {kind}")
    if value.ndim != 2 or value.shape[1] == 0:
        raise ValueError(f"{name} must have the shape [examples, features], got {tuple(value.shape)}; pool or flatten "
                         "what has other dimensions")
    if len(value) < least:
        raise ValueError(f"{name} has {len(value)} examples, at least {least} are needed")
    wrong = ~torch.isfinite(value)
    if wrong.any():
        rows = wrong.any(1).nonzero().flatten().tolist()
        raise ValueError(f"{int(wrong.sum())} of the {value.numel()} numbers in {name} are not finite, in {len(rows)} "
                         f"of {len(value)} examples, the first of them example {rows[0]}; leave these examples out")
    return value.detach().to(torch.float64)


def same_width(one: Tensor, other: Tensor) -> None:
    """Raise where two samples do not live in one space."""
    if one.shape[1] != other.shape[1]:
        raise ValueError(f"the two samples have {one.shape[1]} and {other.shape[1]} features; take both from the same "
                         "module of the same model")


def probabilities_of(name: str, value: Any) -> Tensor:
    """Probabilities [examples, classes] in float64: none negative, every row adds up to 1."""
    p = features_of(name, value)
    away = (p.sum(1) - 1).abs()
    if p.min() < 0 or away.max() > _NORMALISED:
        row = int(torch.maximum(away, -p.min(1).values).argmax())
        raise ValueError(f"{name} must be probabilities: example {row} has the sum {float(p[row].sum()):.4g} and the "
                         f"smallest entry {float(p[row].min()):.4g}; logits become probabilities by .softmax(-1)")
    return p


def classes_of(name: str, value: Any, examples: int | None = None) -> Tensor:
    """Labels [examples] as numbers 0…k − 1 of the k classes that occur."""
    if not isinstance(value, Tensor) or value.is_floating_point() or value.is_complex() or value.dtype == torch.bool:
        kind = f"a tensor of {value.dtype}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
        raise TypeError(f"{name} must be an integer tensor [examples], one class number an example, got {kind}")
    if value.ndim != 1:
        raise ValueError(f"{name} must have the shape [examples], got {tuple(value.shape)}")
    if examples is not None and len(value) != examples:
        raise ValueError(f"there are {examples} rows and {len(value)} {name}: one label an example, in the same order")
    if len(value) < 2:
        raise ValueError(f"there are {len(value)} {name}, at least 2 are needed")
    if value.min() < 0:
        raise ValueError(f"{int((value < 0).sum())} of the {name} are negative (the least is {int(value.min())}); "
                         "leave out the examples whose label is to be ignored")
    return value.unique(return_inverse=True)[1]


def target_classes(value: Any, examples: int) -> Tensor:
    """The target task's labels, of two classes at least."""
    classes = classes_of("labels", value, examples)
    if int(classes.max()) == 0:
        raise ValueError(f"all {examples} labels are class {int(value[0])}: a task needs examples of at least two "
                         "classes, or there is nothing to tell apart; shuffle data that is sorted by class")
    return classes


def centred(name: str, value: Tensor, dtype: torch.dtype) -> tuple[Tensor, float]:
    """Features less their mean, and how large a singular value mere rounding may have.

    Args:
        name: what to call them in an error.
        value: in float64.
        dtype: which they were given in: rounded to it, numbers of size a carry noise of size ε·a.
    """
    around = value - value.mean(0)
    around = around - around.mean(0)  # once more: the first mean was rounded at the features' own size
    n, d = value.shape
    given = torch.finfo(dtype).eps * float(value.abs().max()) * (math.sqrt(n) + math.sqrt(d))
    computed = torch.finfo(torch.float64).eps * max(n, d) * float(torch.linalg.matrix_norm(around))
    if float(torch.linalg.matrix_norm(around)) <= given:
        raise ValueError(f"{name} are the same for all {n} examples, up to rounding in {dtype}: they tell nothing "
                         "apart; is it the right module?")
    return around, max(given, computed)
