"""Parameters that begin to learn one phase after another."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from torch import Tensor, nn
from torch.nn import Parameter
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from forgetting.freezing.coverage import norms_of, state
from forgetting.freezing.frozen import Frozen, hold_back
from forgetting.parameters import Handle

__all__ = ["Unfreezing"]


class Unfreezing(Handle):
    """What learns from which step on; stepped like a learning-rate scheduler, once after each of the optimizer's steps.

    Everything of a later phase is frozen as :func:`freeze` freezes: no gradient, no optimizer update (whatever weight
    decay, momentum and ``zero_grad`` do), no norm statistics that move. The optimizer holds all parameters from the
    beginning, so that schedulers and saved states know one set of groups. Parameters that did not learn before stay so.

    :func:`gradual_unfreezing` and :func:`lp_ft` make the phases. ``remove()``, or the end of a ``with`` block, lets
    everything learn that did before.

    Args:
        model: any module; no ``DistributedDataParallel``, which has to be made anew when other parameters learn.
        optimizer: of all parameters that will learn.
        phases: names of parameters (and of running statistics of norms without parameters), the first to learn first.
            What stands in none of them is left alone.
        starts: how many steps are done when each phase begins; the first is 0, and they rise.

    Raises:
        ValueError: where phases and starts do not fit each other, the model lacks a name, or the optimizer lacks a
            parameter that is to learn.

    **Cost**: none; torch leaves out the backward pass below the lowest parameter that learns. Where ``torch.compile``
    is used, code is compiled once more a phase.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> unfreezing = Unfreezing(model, optimizer, [["1.weight", "1.bias"], ["0.weight", "0.bias"]], [0, 2])
        >>> for _ in range(3):
        ...     print(unfreezing.phase, unfreezing.frozen)
        ...     unfreezing.step()
        0 ('0.weight', '0.bias')
        0 ('0.weight', '0.bias')
        1 ()
    """

    def __init__(
        self, model: nn.Module, optimizer: Optimizer, phases: Sequence[Sequence[str]], starts: Sequence[int]
    ) -> None:
        if isinstance(model, DistributedDataParallel):
            raise ValueError("DistributedDataParallel goes on synchronising what learned when it was made: unfreeze "
                             "the module inside, and wrap it anew whenever unfreezing.phase changes")
        self._model, self._optimizer = model, optimizer
        self._waiting: list[tuple[int, Frozen]] = []
        self._place(phases, starts, 0)
        super().__init__(self._let_go)

    @property
    def phase(self) -> int:
        """The number of the present phase, from 0."""
        return bisect_right(self._starts, self._done) - 1

    @property
    def frozen(self) -> tuple[str, ...]:
        """The parameters that still wait."""
        return tuple(name for _, handle in self._waiting for name in handle.names)

    def __enter__(self) -> Unfreezing:
        return self

    def step(self) -> None:
        """Count a step of the optimizer, and let the phases learn that begin after it."""
        self._done += 1
        due = [handle for start, handle in self._waiting if start <= self._done]
        self._waiting = [(start, handle) for start, handle in self._waiting if start > self._done]
        for handle in due:
            handle.remove()

    def state_dict(self) -> dict[str, Any]:
        """Steps done, phases and their starts, in plain values."""
        return {"steps": self._done, "phases": [list(names) for names in self._phases], "starts": list(self._starts)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where :meth:`state_dict` was taken; its phases replace these.

        Args:
            state: what it gave, perhaps in another process.

        Raises:
            ValueError: where the model or the optimizer does not fit, and nothing is changed; after ``remove()``.
        """
        if self._undo is None:
            raise ValueError("this unfreezing was removed: make a new one, and load the state into that")
        self._place(state["phases"], state["starts"], state["steps"])

    def _place(self, phases: Sequence[Sequence[str]], starts: Sequence[int], done: int) -> None:
        """Freeze what has not begun to learn after so many steps, and nothing else."""
        _check(phases, starts)
        tensors = state(self._model)
        self._fits(tensors, phases)
        self._let_go()
        self._phases, self._starts, self._done = [list(names) for names in phases], list(starts), done
        for names, start in zip(phases, starts, strict=True):
            if start > done:
                parameters = {name: tensor for name in names if isinstance(tensor := tensors[name], Parameter)
                              and tensor.requires_grad}
                norms = norms_of(self._model, {id(tensors[name]) for name in names})
                self._waiting.append((start, hold_back(parameters, norms)))

    def _fits(self, tensors: Mapping[str, Tensor], phases: Sequence[Sequence[str]]) -> None:
        """Raise unless the model has what the phases name, and the optimizer what is to learn later."""
        unknown = [name for names in phases for name in names if name not in tensors]
        if unknown:
            raise ValueError(f"{type(self._model).__name__} has no {', '.join(map(repr, unknown[:4]))}: the phases are "
                             "those of another model")
        known = {id(parameter) for group in self._optimizer.param_groups for parameter in group["params"]}
        waiting = {id(tensors[name]) for name in self.frozen}
        lacking = [name for names in phases[1:] for name in names if isinstance(tensors[name], Parameter)
                   and (tensors[name].requires_grad or id(tensors[name]) in waiting) and id(tensors[name]) not in known]
        if lacking:
            raise ValueError(
                f"the optimizer lacks {len(lacking)} parameters that are to learn later ({', '.join(lacking[:4])}): "
                "make it of all parameters while all of them require a gradient, and unfreeze after that"
            )

    def _let_go(self) -> None:
        """Let everything learn."""
        while self._waiting:
            self._waiting.pop()[1].remove()


def _check(phases: Sequence[Sequence[str]], starts: Sequence[int]) -> None:
    """Raise unless every phase has a start, the first at once and each later than the one before."""
    whole = all(isinstance(start, int) and not isinstance(start, bool) for start in starts)
    rising = whole and all(early < late for early, late in pairwise(starts))
    if not phases or len(phases) != len(starts) or starts[0] != 0 or not rising:
        raise ValueError(f"{len(phases)} phases take as many starts, whole numbers that rise from 0, not "
                         f"{list(starts)}")
    names = [name for phase in phases for name in phase]
    twice = {name for name in names if names.count(name) > 1} if len(set(names)) < len(names) else set()
    if twice:
        raise ValueError(f"{', '.join(sorted(twice))} in two phases: every parameter begins to learn once")
