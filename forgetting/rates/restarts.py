"""A rate that begins anew with each task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from forgetting.rates.schedules import WarmupCosine, check_cosine, check_steps

__all__ = ["rewarm"]


def rewarm(optimizer: Optimizer, tasks: Sequence[int], *, warmup: int = 0, floor: float = 0.0) -> LambdaLR:
    r"""Warm every group's rate up and let it decay by a cosine, anew at the start of each task.

    .. math::
        \eta_t = \eta \begin{cases}
            \dfrac{t_i + 1}{w + 1} & t_i < w \\[1ex]
            f + (1 - f)\,\dfrac{1 + \cos\!\big(\pi (t_i - w) / (T_i - w)\big)}{2} & w \le t_i < T_i
        \end{cases}, \qquad t_i = t - \sum_{j < i} T_j

    with :math:`T_i` the steps of task :math:`i`, :math:`t_i` those done of it, :math:`w` the warm-up, :math:`f` the
    floor, and :math:`\eta` each group's own rate. Without a warm-up these are SGDR's warm restarts, at the boundaries
    of the tasks. A scheduler that is made anew for each task does the same with
    :func:`~forgetting.rates.warmup_cosine`.

    Args:
        optimizer: its groups' rates are the peak, in every task.
        tasks: number of the optimizer's steps in each task.
        warmup: steps of the rise, in each task, from 0 to one less than the shortest task's.
        floor: the rate behind a task's last step as a part of the peak, in [0, 1].

    Returns:
        A torch scheduler, stepped once an optimizer step. Beyond the last task the rate stays at the floor. It sets
        rates from each group's initial one: see :func:`~forgetting.rates.slanted_triangular`.

    Raises:
        ValueError: without tasks, or where a number is out of its range.

    Cost:
        None.

    Reference:
        Ibrahim et al., "Simple and Scalable Strategies to Continually Pre-train Large Language Models", 2024
        (arXiv 2403.08763); Loshchilov and Hutter, "SGDR", 2017 (arXiv 1608.03983), eq. 5.

    Differs:
        The first step of a task has a part 1/(w + 1) of the peak where Ibrahim et al. begin at 0: their warm-up with
        :math:`T_\text{warmup} = w + 1`, steps counted from 1.

    Example:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        >>> scheduler = rewarm(optimizer, [3, 3], warmup=1, floor=0.1)
        >>> rates = []
        >>> for _ in range(7):
        ...     rates.append(round(scheduler.get_last_lr()[0], 3))
        ...     optimizer.step()
        ...     scheduler.step()
        >>> rates
        [0.5, 1.0, 0.55, 0.5, 1.0, 0.55, 0.1]
    """
    if not tasks:
        raise ValueError("tasks= takes the number of steps of each task, at least one; it is empty")
    for steps in tasks:
        check_steps(steps)
    check_cosine(min(tasks), warmup, floor)
    return LambdaLR(optimizer, _Rewarmed(list(tasks), warmup, float(floor)))


@dataclass
class _Rewarmed:
    """The factor of :func:`rewarm`; its fields go through the scheduler's ``state_dict``."""

    tasks: list[int]
    warmup: int
    floor: float

    def __call__(self, step: int) -> float:
        for steps in self.tasks:
            if step < steps:
                return WarmupCosine(steps, self.warmup, self.floor)(step)
            step -= steps
        return self.floor
