"""How fast which parameter learns: layer-wise decay as parameter groups, warm-ups as learning-rate schedulers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from forgetting.execution import used_and_unused
from forgetting.parameters import canonical

__all__ = ["layerwise_decay", "slanted_triangular", "warmup_cosine"]


def layerwise_decay(
    model: nn.Module, rate: float, decay: float, *, inputs: Any = None, weight_decay: float | None = None
) -> list[dict[str, Any]]:
    r"""Parameter groups whose rate falls by a constant factor a layer, from the output to the input.

    .. math:: \eta_l = \eta\,\xi^{\,L - l}, \qquad l = 1, \dots, L

    with :math:`\eta` the rate of the last layer, :math:`\xi` the decay and :math:`L` the number of layers. The layers
    are the groups of :func:`forgetting.execution.execution_groups` with ``blocks=True``, in the order of execution: one
    for each repeated block (a transformer's layer, a residual block) and one for each module outside of such blocks. So
    it works for any module, and decays of the literature keep their meaning.

    Args:
        model: any module; parameters with ``requires_grad=False`` are left out, and their layers still count.
        rate: learning rate of the last layer, above 0.
        decay: factor a layer, in (0, 1]; 1 gives every layer the same rate.
        inputs: one forward pass's inputs; ``None`` takes the order of registration. Parameters that the pass does not
            use get the full rate.
        weight_decay: set in every group; ``None`` leaves it to the optimizer.

    Returns:
        Groups for any ``torch.optim`` optimizer, from the input on: ``params``, ``lr``, ``name`` (the layer's),
        ``names`` (the parameters'), and ``weight_decay`` where given. Every trainable parameter is in exactly one.

    Raises:
        ValueError: where a number is out of its range or no parameter is trainable.

    Cost:
        One forward pass without gradients where ``inputs`` are given.

    Reference:
        Clark, Luong, Le and Manning, "ELECTRA", 2020 (arXiv 2003.10555), appendix A; Howard and Ruder, "Universal
        Language Model Fine-tuning", 2018 (arXiv 1801.06146), section 3.2 (discriminative fine-tuning, decay 1/2.6).

    Differs:
        ELECTRA gives all embeddings one layer and the head the place of one more; here each module outside of the
        blocks is a layer.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> [(group["name"], group["lr"]) for group in layerwise_decay(model, 0.1, 0.5)]
        [('0', 0.05), ('2', 0.1)]
    """
    if not (rate > 0 and math.isfinite(rate)):
        raise ValueError(f"rate={rate!r} must be a finite number above 0")
    if not 0 < decay <= 1:
        raise ValueError(f"decay={decay!r} must lie in (0, 1]: it multiplies the rate once a layer, going down")
    if weight_decay is not None and not (weight_decay >= 0 and math.isfinite(weight_decay)):
        raise ValueError(f"weight_decay={weight_decay!r} must be a finite number, 0 or more")
    trainable = {canonical(name): parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if not trainable:
        raise ValueError(f"{type(model).__name__} has no trainable parameters: there is nothing to give a rate to")
    used, unused = used_and_unused(model, inputs, blocks=True)
    distances = [*range(len(used) - 1, -1, -1), *(0 for _ in unused)]
    groups: list[dict[str, Any]] = []
    for names, distance in zip(used + unused, distances, strict=True):
        learning = [name for name in names if name in trainable]
        if learning:
            group = {"params": [trainable[name] for name in learning], "lr": rate * decay**distance,
                     "name": _layer(names), "names": learning}
            groups.append(group if weight_decay is None else {**group, "weight_decay": weight_decay})
    return groups


def _layer(names: list[str]) -> str:
    """The path that one layer's parameters have in common; the names themselves where that is the model."""
    levels = zip(*(name.split(".")[:-1] for name in names), strict=False)
    path = ".".join(level[0] for level in takewhile(lambda level: len(set(level)) == 1, levels))
    return path or ", ".join(names)


def slanted_triangular(optimizer: Optimizer, steps: int, *, cut: float = 0.1, ratio: float = 32) -> LambdaLR:
    r"""A short linear rise and a long linear fall of every group's rate.

    .. math::
        c = \lfloor T f \rfloor, \qquad
        p_t = \begin{cases} t / c & t < c \\ 1 - \dfrac{t - c}{c\,(1/f - 1)} & \text{else} \end{cases}, \qquad
        \eta_t = \eta\,\frac{1 + p_t\,(r - 1)}{r}

    with :math:`T` the steps, :math:`f` the cut, :math:`r` the ratio, and :math:`\eta` each group's own rate.

    Args:
        optimizer: its groups' rates are the peak.
        steps: number of calls of ``scheduler.step()``, one after each of the optimizer's.
        cut: part of the steps in which the rate rises, in (0, 1); ``steps * cut`` is at least 1.
        ratio: peak ÷ lowest rate, at least 1.

    Returns:
        A torch scheduler, stepped once an optimizer step. Beyond the last step the rate stays at its lowest value.
        It sets rates from each group's initial one: it follows or precedes others in ``SequentialLR``; in
        ``ChainedScheduler`` it undoes the others' factors.

    Raises:
        ValueError: where a number is out of its range.

    Cost:
        None.

    Reference:
        Howard and Ruder, "Universal Language Model Fine-tuning for Text Classification", 2018, eq. 3
        (arXiv 1801.06146).

    Differs:
        :math:`p_t` is not let below 0: where :math:`Tf` is no whole number the printed formula gives negative rates
        before step :math:`T`.

    Example:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        >>> scheduler = slanted_triangular(optimizer, 20, ratio=2)
        >>> rates = []
        >>> for _ in range(4):
        ...     rates.append(round(scheduler.get_last_lr()[0], 3))
        ...     optimizer.step()
        ...     scheduler.step()
        >>> rates
        [0.5, 0.75, 1.0, 0.972]
    """
    _check_steps(steps)
    if not 0 < cut < 1:
        raise ValueError(f"cut={cut!r} must lie in (0, 1): it is the part of the steps in which the rate rises")
    if ratio < 1 or not math.isfinite(ratio):
        raise ValueError(f"ratio={ratio!r} must be at least 1: it is the highest rate over the lowest")
    # 0.29 * 100 is a hair below 29 in binary.
    peak = math.floor(steps * cut + 1e-9)
    if peak < 1:
        raise ValueError(f"{steps} steps with cut={cut} leave no step to rise in: steps * cut must be at least 1")
    return LambdaLR(optimizer, _Slanted(peak, peak * (1 / cut - 1), float(ratio)))


@dataclass
class _Slanted:
    """The factor of :func:`slanted_triangular`; its fields go through the scheduler's ``state_dict``."""

    peak: int
    fall: float
    ratio: float

    def __call__(self, step: int) -> float:
        part = step / self.peak if step < self.peak else max(0.0, 1 - (step - self.peak) / self.fall)
        return (1 + part * (self.ratio - 1)) / self.ratio


def warmup_cosine(optimizer: Optimizer, steps: int, *, warmup: int, floor: float = 0.0) -> LambdaLR:
    r"""A linear warm-up of every group's rate, then half a cosine down to a floor.

    .. math::
        \eta_t = \eta \begin{cases}
            \dfrac{t + 1}{w + 1} & t < w \\[1ex]
            f + (1 - f)\,\dfrac{1 + \cos\!\big(\pi (t - w) / (T - w)\big)}{2} & w \le t \le T
        \end{cases}

    with :math:`w` the warm-up, :math:`T` the steps, :math:`f` the floor, and :math:`\eta` each group's own rate.

    Args:
        optimizer: its groups' rates are the peak, reached at step ``warmup``.
        steps: number of calls of ``scheduler.step()``, one after each of the optimizer's.
        warmup: steps of the rise, from 0 to ``steps - 1``.
        floor: last rate as a part of the peak, in [0, 1].

    Returns:
        A torch scheduler, stepped once an optimizer step. Beyond the last step the rate stays at the floor. It sets
        rates from each group's initial one: see :func:`slanted_triangular`.

    Raises:
        ValueError: where a number is out of its range.

    Cost:
        None.

    Reference:
        Loshchilov and Hutter, "SGDR", 2017 (arXiv 1608.03983), eq. 5 with one period; Goyal et al., "Accurate, Large
        Minibatch SGD", 2017 (arXiv 1706.02677), section 2.2 (gradual warm-up).

    Differs:
        The first step's rate is a part 1/(w + 1) of the peak; others start at 0 and waste that step.

    Example:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        >>> scheduler = warmup_cosine(optimizer, 5, warmup=1)
        >>> rates = []
        >>> for _ in range(6):
        ...     rates.append(round(scheduler.get_last_lr()[0], 3))
        ...     optimizer.step()
        ...     scheduler.step()
        >>> rates
        [0.5, 1.0, 0.854, 0.5, 0.146, 0.0]
    """
    _check_steps(steps)
    if not isinstance(warmup, int) or not 0 <= warmup < steps:
        raise ValueError(f"warmup={warmup!r} must be a whole number of steps, from 0 to {steps - 1}")
    if not 0 <= floor <= 1:
        raise ValueError(f"floor={floor!r} must lie in [0, 1]: it is a part of the peak rate")
    return LambdaLR(optimizer, _WarmupCosine(steps, warmup, float(floor)))


@dataclass
class _WarmupCosine:
    """The factor of :func:`warmup_cosine`; its fields go through the scheduler's ``state_dict``."""

    steps: int
    warmup: int
    floor: float

    def __call__(self, step: int) -> float:
        if step < self.warmup:
            return (step + 1) / (self.warmup + 1)
        part = min(1.0, (step - self.warmup) / (self.steps - self.warmup))
        return self.floor + (1 - self.floor) * (1 + math.cos(math.pi * part)) / 2


def _check_steps(steps: int) -> None:
    """Raise unless it is a number of steps."""
    if not isinstance(steps, int) or isinstance(steps, bool) or steps < 1:
        raise ValueError(f"steps={steps!r} must be a whole number, at least 1")
