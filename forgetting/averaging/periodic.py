"""Going back a part of the way to where training began, again and again while it goes on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from forgetting.averaging.following import Follower
from forgetting.averaging.states import Buffers, between, buffers_of, check, copied

__all__ = ["PeriodicMerge"]

_VERSION = 1


class PeriodicMerge(Follower):
    r"""Merges the weights that are trained with those from which training began, a few times on the way and at its end.

    .. math:: \theta \leftarrow (1 - \beta)\,\theta + \beta\,\theta_o
        \quad\text{after every } p\,T \text{ steps and after step } T

    with :math:`\theta_o` the weights at the time of the call, T = ``steps``, p = ``period`` and
    :math:`\beta = 1 -` ``amount``, so that ``amount`` means what it means to
    :func:`~forgetting.averaging.interpolate`. Merge k comes after step round(k·p·T). With ``period=1`` it is WiSE-FT;
    with a merge a step, SGD and rate η, it is L2-SP with the strength :math:`\beta / ((1-\beta)\,\eta)`, as a proximal
    step.

    Make it before training, ``follow(optimizer)``, and call :meth:`finish` after the last step.

    **The optimizer** goes on with its state as it was: momentum and Adam's moments were collected at the weights before
    a merge and push the merged ones on. An optimizer that keeps a second copy of the weights (float32 masters of
    16-bit weights) undoes a merge at its next step.

    Args:
        model: any module, at the weights to come back to.
        steps: T, of the whole training.
        amount: in [0, 1], what a merge keeps of the trained weights.
        period: p in (0, 1], a share of the training.
        buffers: where running statistics and other floating buffers come from at a merge, see
            :func:`~forgetting.averaging.interpolate`.

    Attributes:
        taken: how many steps there were.
        moments: after which of them it merges.

    Raises:
        ValueError: for numbers out of their ranges; at a merge, where the model's names or shapes have changed.

    **Cost**: one copy of the state, and another one at a merge; nothing at other steps.

    **Reference**: Kleiman, Dziugaite, Frankle, Kakade and Paul, "Soup to go: mitigating forgetting during continual
    learning with model averaging" (SFA), 2025 (arXiv 2501.05559), section 3.
    **Differs**: running statistics are part of what is merged, by an argument.

    Example:
        >>> import torch
        >>> model = nn.Linear(1, 1, bias=False)
        >>> _ = nn.init.zeros_(model.weight)
        >>> merge = PeriodicMerge(model, 4, amount=0.5, period=0.5)
        >>> merge.moments
        (2, 4)
        >>> optimizer, seen = torch.optim.SGD(model.parameters(), lr=1.0), []
        >>> with merge.follow(optimizer):
        ...     for _ in range(4):
        ...         model.weight.grad = -torch.ones(1, 1)
        ...         optimizer.step()
        ...         seen.append(model.weight.item())
        >>> seen
        [1.0, 1.0, 2.0, 1.5]
    """

    def __init__(self, model: nn.Module, steps: int, *, amount: float = 0.5, period: float = 0.25,
                 buffers: Buffers = "interpolate") -> None:
        super().__init__(model)
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
            raise ValueError(f"steps={steps!r} must be the whole number of the training's steps, at least 1")
        if not 0 < period <= 1:
            raise ValueError(f"period={period!r} must lie in (0, 1]: it is a share of the training's {steps} steps")
        self._before = copied(self.plain.state_dict())
        check(self._before, self._before, (amount,), buffers)
        self.amount = amount
        self.buffers: Buffers = buffers
        share = max(period, 1 / steps)  # one merge a step at most
        merges = (math.floor(count * share * steps + 0.5) for count in range(1, math.ceil(1 / share)))
        self.moments = tuple(sorted({*merges, steps}))
        self._merged = 0

    def update(self) -> None:
        """Count one step, and merge if it is time; ``follow`` calls this after every step."""
        self.taken += 1
        if self.taken in self.moments:
            self._merge()

    def finish(self) -> None:
        """Merge at the end of training, unless that was done after its last step."""
        if self.taken > self._merged:
            self._merge()

    def state_dict(self) -> dict[str, Any]:
        """The weights to come back to and the steps taken, as tensors and plain values; settings are not part of it."""
        return {"version": _VERSION, "taken": self.taken, "merged": self._merged, "before": dict(copied(self._before))}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what :meth:`state_dict` gave.

        Raises:
            ValueError: where it is the state of another model or another version. Nothing is changed then.
        """
        if state.get("version") != _VERSION:
            raise ValueError(f"this is no state of a PeriodicMerge of version {_VERSION}, its version is "
                             f"{state.get('version')!r}")
        check(state["before"], self._before, (), self.buffers)
        self._before = copied(state["before"])
        self.taken, self._merged = int(state["taken"]), int(state["merged"])

    def _merge(self) -> None:
        """One merge, into the memory of the weights."""
        present = self.plain.state_dict()
        places = {name: value.device for name, value in present.items() if isinstance(value, Tensor)}
        before = {name: value.to(places[name]) if name in places else value for name, value in self._before.items()}
        names = buffers_of(self.plain)
        self.plain.load_state_dict(between(before, present, self.amount, self.buffers, names.__contains__))
        self._merged = self.taken
