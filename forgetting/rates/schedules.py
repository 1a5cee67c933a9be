"""A rate that rises and falls once: slanted triangular, warm-up and cosine, warm-up, stable stage and decay."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

__all__ = ["slanted_triangular", "warmup_cosine", "warmup_stable_decay"]


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
    check_steps(steps)
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
        floor: the rate behind the last step as a part of the peak, in [0, 1].

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
    check_steps(steps)
    check_cosine(steps, warmup, floor)
    return LambdaLR(optimizer, WarmupCosine(steps, warmup, float(floor)))


@dataclass
class WarmupCosine:
    """The factor of :func:`warmup_cosine`; its fields go through the scheduler's ``state_dict``."""

    steps: int
    warmup: int
    floor: float

    def __call__(self, step: int) -> float:
        if step < self.warmup:
            return (step + 1) / (self.warmup + 1)
        part = min(1.0, (step - self.warmup) / (self.steps - self.warmup))
        return self.floor + (1 - self.floor) * (1 + math.cos(math.pi * part)) / 2


def check_steps(steps: int) -> None:
    """Raise unless it is a number of steps."""
    if not isinstance(steps, int) or isinstance(steps, bool) or steps < 1:
        raise ValueError(f"steps={steps!r} must be a whole number, at least 1")


def check_cosine(steps: int, warmup: int, floor: float) -> None:
    """Raise unless there is a step left to fall in, and the floor is a part of the peak."""
    if not isinstance(warmup, int) or not 0 <= warmup < steps:
        raise ValueError(f"warmup={warmup!r} must be a whole number of steps, from 0 to {steps - 1}")
    if not 0 <= floor <= 1:
        raise ValueError(f"floor={floor!r} must lie in [0, 1]: it is a part of the peak rate")


def warmup_stable_decay(
    optimizer: Optimizer, steps: int, *, warmup: int, decay: int, floor: float = 0.1, cooldown: int = 0,
    constant: float = 1.0,
) -> LambdaLR:
    r"""A linear warm-up of every group's rate, a long stable stage, and a short exponential decay at the end.

    .. math::
        \eta_t = \eta \begin{cases}
            \dfrac{t + 1}{w + 1} & t < w \\[1ex]
            k + (1 - k)\,\dfrac{1 + \cos\!\big(\pi (t - w) / c\big)}{2} & w \le t < w + c \\[1ex]
            k & w + c \le t < T - d \\[0.5ex]
            k\,(f / k)^{(t - T + d) / d} & T - d \le t \le T
        \end{cases}

    with :math:`w` the warm-up, :math:`c` the cooldown, :math:`d` the decay and :math:`T` all steps; :math:`k` the
    constant, :math:`f` the floor, and :math:`\eta` each group's own rate. Before the decay nothing depends on
    :math:`T`: training goes on from there with other data, or for longer. With a cooldown to a smaller constant it is
    the infinite schedule of continual pre-training.

    Args:
        optimizer: its groups' rates are the peak, reached at step ``warmup``.
        steps: number of calls of ``scheduler.step()``, one after each of the optimizer's.
        warmup: steps of the rise, at least 0.
        decay: steps of the decay; 0: the stable stage never ends.
        floor: last rate as a part of the peak, above 0 and at most ``constant``.
        cooldown: steps of a cosine from the peak to the constant rate.
        constant: rate of the stable stage as a part of the peak, in (0, 1]; less than 1 needs a cooldown.

    Returns:
        A torch scheduler, stepped once an optimizer step. Beyond the last step the rate stays as it is. It sets rates
        from each group's initial one: see :func:`slanted_triangular`.

    Raises:
        ValueError: where a number is out of its range, or the stages take more steps than there are.

    Cost:
        None.

    Reference:
        Hu et al., "MiniCPM: Unveiling the Potential of Small Language Models with Scalable Training Strategies", 2024
        (arXiv 2404.06395); for the cooldown Ibrahim et al., "Simple and Scalable Strategies to Continually Pre-train
        Large Language Models", 2024 (arXiv 2403.08763).

    Differs:
        Hu et al. leave the falling function open and use one with a half-life; here it is given by where it ends,
        which is a half-life of :math:`d \ln 2 / \ln(k / f)`. Their warm-up begins with a part 1/W of the peak; this one
        is theirs with W = w + 1.

    Example:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        >>> scheduler = warmup_stable_decay(optimizer, 6, warmup=1, decay=2, floor=0.01)
        >>> rates = []
        >>> for _ in range(7):
        ...     rates.append(round(scheduler.get_last_lr()[0], 3))
        ...     optimizer.step()
        ...     scheduler.step()
        >>> rates
        [0.5, 1.0, 1.0, 1.0, 1.0, 0.1, 0.01]
    """
    check_steps(steps)
    stages = {"warmup": warmup, "cooldown": cooldown, "decay": decay}
    for name, value in stages.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise ValueError(f"{name}={value!r} must be a whole number of steps, at least 0")
    if sum(stages.values()) > steps:
        raise ValueError(f"warmup={warmup}, cooldown={cooldown} and decay={decay} are more than the {steps} steps")
    if not 0 < constant <= 1 or (constant < 1 and not cooldown):
        raise ValueError(f"constant={constant!r} must lie in (0, 1], and below 1 only after a cooldown")
    if not 0 < floor <= constant:
        raise ValueError(f"floor={floor!r} must lie in (0, {constant}]: a decay by factors never reaches 0")
    return LambdaLR(optimizer, _Stages(steps, warmup, cooldown, decay, float(constant), float(floor)))


@dataclass
class _Stages:
    """The factor of :func:`warmup_stable_decay`; its fields go through the scheduler's ``state_dict``."""

    steps: int
    warmup: int
    cooldown: int
    decay: int
    constant: float
    floor: float

    def __call__(self, step: int) -> float:
        if step < self.warmup + self.cooldown:
            return WarmupCosine(self.warmup + self.cooldown, self.warmup, self.constant)(step)
        falling = step - (self.steps - self.decay)
        if falling <= 0 or not self.decay:
            return self.constant
        return self.constant * (self.floor / self.constant) ** min(1.0, falling / self.decay)
