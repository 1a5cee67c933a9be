"""Figures of the accuracy matrix R, as their papers define them.

``R`` is float64 of shape [N + 1, N]: row 0 is the model as given, row j the model once task j was learned, and column
i − 1 belongs to task i; task 1 is the source. Below, R[j, i] numbers rows and tasks as that, from 1.
Every function costs a few operations on N² numbers.
"""

from __future__ import annotations

import numpy as np

__all__ = [
    "adaptation",
    "average_accuracy",
    "backward_transfer",
    "forgetting",
    "forward_transfer",
    "intransigence",
    "learning_accuracy",
    "negative_flips",
    "retention",
]

Array = np.ndarray


def _matrix(R: Array, tasks: int = 1) -> Array:
    """R as float64, its shape and range checked."""
    R = np.asarray(R, dtype=np.float64)
    if R.ndim != 2 or R.shape[0] != R.shape[1] + 1:
        raise ValueError(f"an accuracy matrix has the shape [N + 1, N], row 0 being the model as given; got {R.shape}")
    if R.shape[1] < tasks:
        raise ValueError(f"this figure needs at least {tasks} tasks, the matrix has {R.shape[1]}")
    if not np.isfinite(R).all():
        raise ValueError("the accuracy matrix holds numbers that are not finite: test on all tasks after every task")
    return R


def average_accuracy(R: Array) -> float:
    """The mean accuracy over all tasks at the end: ACC = 1/N Σ_i R[N, i].

    Args:
        R: the accuracy matrix, [N + 1, N]: row k after k tasks, row 0 the model as given.

    **Reference**: Lopez-Paz & Ranzato 2017, Gradient Episodic Memory, eq. 2. **Differs**: nothing.

    Example:
        >>> average_accuracy([[0.5, 0.1], [0.9, 0.2], [0.7, 0.8]])
        0.75
    """
    return float(_matrix(R)[-1].mean())


def backward_transfer(R: Array) -> float:
    """What learning later tasks did to earlier ones: BWT = 1/(N − 1) Σ_{i<N} R[N, i] − R[i, i].

    Args:
        R: the accuracy matrix, [N + 1, N]: row k after k tasks, row 0 the model as given.

    **Reference**: Lopez-Paz & Ranzato 2017, eq. 3. **Differs**: nothing.

    Example:
        >>> round(backward_transfer([[0.5, 0.1], [0.9, 0.2], [0.7, 0.8]]), 10)
        -0.2
    """
    R = _matrix(R, 2)
    return float((R[-1, :-1] - np.diagonal(R[1:])[:-1]).mean())


def forward_transfer(R: Array) -> float:
    """What earlier tasks did for later ones before these were learned: FWT = 1/(N − 1) Σ_{i>1} R[i − 1, i] − b_i.

    b_i = R[0, i].

    Args:
        R: the accuracy matrix, [N + 1, N]: row k after k tasks, row 0 the model as given.

    **Reference**: Lopez-Paz & Ranzato 2017, eq. 4. **Differs**: b is the accuracy of a random initial model in the
    paper, of the model as given here; for a pretrained sequence that is the model that knows the source, so that
    its first target's term is 0.

    Example:
        >>> round(forward_transfer([[0.5, 0.1], [0.9, 0.2], [0.7, 0.8]]), 10)
        0.1
    """
    R = _matrix(R, 2)
    return float((np.diagonal(R[1:-1], offset=1) - R[0, 1:]).mean())


def forgetting(R: Array) -> float:
    """How far earlier tasks fell from their best: F = 1/(N − 1) Σ_{i<N} max_{1≤l<N} R[l, i] − R[N, i].

    Args:
        R: the accuracy matrix, [N + 1, N]: row k after k tasks, row 0 the model as given.

    **Reference**: Chaudhry et al. 2018, Riemannian Walk, eq. 3, at k = N. **Differs**: nothing (row 0 takes no part).

    Example:
        >>> round(forgetting([[0.5, 0.1], [0.9, 0.2], [0.7, 0.8]]), 10)
        0.2
    """
    R = _matrix(R, 2)
    return float((R[1:-1, :-1].max(axis=0) - R[-1, :-1]).mean())


def learning_accuracy(R: Array) -> float:
    """The mean accuracy on each task right after it was learned: LA = 1/N Σ_i R[i, i].

    Args:
        R: the accuracy matrix, [N + 1, N]: row k after k tasks, row 0 the model as given.

    **Reference**: Riemer et al. 2019, Learning to Learn without Forgetting by Maximizing Transfer. **Differs**:
    nothing.

    Example:
        >>> round(learning_accuracy([[0.5, 0.1], [0.9, 0.2], [0.7, 0.8]]), 10)
        0.85
    """
    return float(np.diagonal(_matrix(R)[1:]).mean())


def intransigence(R: Array, R_joint: Array) -> float:
    """How much worse the last task is learned than by joint training: I = R_joint[N, N] − R[N, N].

    Args:
        R: of the method.
        R_joint: of joint training, same sequence and seed.

    **Reference**: Chaudhry et al. 2018, eq. 4, at k = N. **Differs**: nothing.

    Example:
        >>> R = [[0.5, 0.1], [0.9, 0.2], [0.7, 0.75]]
        >>> intransigence(R, [[0.5, 0.1], [0.9, 0.2], [0.9, 1.0]])
        0.25
    """
    R, R_joint = _matrix(R), _matrix(R_joint)
    if R.shape != R_joint.shape:
        raise ValueError(f"the two matrices belong to different sequences: {R.shape} and {R_joint.shape}")
    return float(R_joint[-1, -1] - R[-1, -1])


def retention(R: Array) -> float:
    """The share of the source accuracy that is left at the end: R[N, 1] / R[1, 1].

    Args:
        R: the accuracy matrix, [N + 1, N]: row k after k tasks, row 0 the model as given.

    Raises:
        ValueError: where the source was never learned (accuracy 0).

    Example:
        >>> retention([[0.5, 0.1], [0.8, 0.2], [0.4, 0.8]])
        0.5
    """
    R = _matrix(R)
    if R[1, 0] == 0:
        raise ValueError("the source accuracy is 0 once the source was learned: there is nothing to retain")
    return float(R[-1, 0] / R[1, 0])


def adaptation(R: Array, R_finetune: Array) -> float:
    """How well later tasks are learned, as a share of plain fine-tuning's.

    1/(N − 1) Σ_{j>1} R[j, j] / R_finetune[j, j].

    Args:
        R: of the method.
        R_finetune: of plain fine-tuning, same sequence and seed.

    Raises:
        ValueError: where fine-tuning learned nothing of a task (accuracy 0), or the sequences differ.

    Example:
        >>> R = [[0.5, 0.1], [0.9, 0.2], [0.7, 0.6]]
        >>> round(adaptation(R, [[0.5, 0.1], [0.9, 0.2], [0.1, 0.8]]), 10)
        0.75
    """
    R, R_finetune = _matrix(R, 2), _matrix(R_finetune, 2)
    if R.shape != R_finetune.shape:
        raise ValueError(f"the two matrices belong to different sequences: {R.shape} and {R_finetune.shape}")
    plain = np.diagonal(R_finetune[1:])[1:]
    if (plain == 0).any():
        raise ValueError(f"plain fine-tuning has accuracy 0 on task {int(np.argmin(plain)) + 2} after learning it")
    return float((np.diagonal(R[1:])[1:] / plain).mean())


def negative_flips(correct_before: Array, correct_after: Array) -> float:
    """The share of examples that were right and are wrong now: 1/n Σ [before right and after wrong].

    Args:
        correct_before: bool, [n], one an example.
        correct_after: bool, [n], of the same examples in the same order.

    **Reference**: Yan et al. 2021, Positive-Congruent Training, negative flip rate. **Differs**: nothing.

    Example:
        >>> negative_flips([True, True, False, False], [True, False, True, False])
        0.25
    """
    before, after = np.asarray(correct_before), np.asarray(correct_after)
    if before.dtype != bool or after.dtype != bool or before.shape != after.shape or before.ndim != 1:
        raise ValueError(f"expected two bool vectors over the same examples, got {before.dtype} {before.shape} "
                         f"and {after.dtype} {after.shape}")
    if not len(before):
        raise ValueError("there are no examples to compare")
    return float((before & ~after).mean())
