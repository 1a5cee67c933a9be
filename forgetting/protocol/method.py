"""A method, as the protocol runs it: pieces in torch's own currencies, any of them absent, all of them combinable."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from forgetting.parameters import Handle

if TYPE_CHECKING:
    from forgetting.regularizers import Regularizer
    from forgetting.tasks import Task

MODES = ("loss", "gradient", "proximal")
Setting = float | int | str | bool | None


@dataclass(frozen=True)
class Method:
    """What one way of learning without forgetting does to an ordinary training loop.

    A method without any piece is plain fine-tuning. ``name`` and ``settings`` (with the plain fields) name the
    method in a run's hash: whatever changes what the pieces do belongs into ``settings``.

    Args:
        name: how tables call it.
        settings: plain values that say everything the pieces do not show.
        regularizer: makes a fresh regularizer for a run.
        mode: how its pull reaches the weights: a ``"loss"`` term, a ``"gradient"`` added once a step, or
            ``"proximal"``, a step of its own after the optimizer's.
        prepare: ``(model, task, inputs) -> Handle``, called before each task after the source, undone after it;
            ``inputs`` is one batch of the task. Freezing lives here.
        groups: ``(model, rate, inputs) -> parameter groups`` for the optimizer; layer-wise rates live here.
        rate: factor on the recipe's rate, for the tasks after the source.
        schedule: ``(optimizer, steps) -> LRScheduler``, made anew for each task.
        joint: train on all tasks so far, from the model as given: the ceiling.
        average: ``(model, before)``: changes the weights after each task that had a model before it; ``before``
            is that model's state dict.
        curve: ``(model, before) -> pairs (amount, model)``: models on the line between those before and after a
            task, each of which is tested; it leaves the model as it was.

    Raises:
        ValueError: for a mode that does not exist.
        TypeError: for settings that are not plain values.

    Example:
        >>> Method("plain").as_data()["settings"]
        {}
    """

    name: str
    settings: Mapping[str, Setting] = field(default_factory=dict)
    regularizer: Callable[[], Regularizer] | None = None
    mode: str = "loss"
    prepare: Callable[[nn.Module, Task, Tensor], Handle] | None = None
    groups: Callable[[nn.Module, float, Tensor], list[dict[str, Any]]] | None = None
    rate: float = 1.0
    schedule: Callable[[Optimizer, int], LRScheduler] | None = None
    joint: bool = False
    average: Callable[[nn.Module, Mapping[str, Tensor]], None] | None = None
    curve: Callable[[nn.Module, Mapping[str, Tensor]], Iterable[tuple[float, nn.Module]]] | None = None

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[\w.+-]+", self.name):
            raise ValueError(f"a method's name is made of letters, digits and . _ + -, not {self.name!r}")
        if self.mode not in MODES:
            raise ValueError(f"mode={self.mode!r} of method {self.name!r}: choose one of {', '.join(MODES)}")
        if not self.rate > 0:
            raise ValueError(f"method {self.name!r} has the rate factor {self.rate}; it must be above 0")
        for key, value in self.settings.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"setting {key!r} of method {self.name!r} is {value}; it must be finite")
            if not isinstance(value, float | int | str | bool | None):
                raise TypeError(
                    f"setting {key!r} of method {self.name!r} is a {type(value).__name__}; settings name a run, so "
                    "they are plain values: a number, a text, a truth value or None"
                )

    def pieces(self) -> dict[str, Any]:
        """What the regularizer says of itself (its class and plain attributes), for the run's hash."""
        if self.regularizer is None:
            return {}
        fresh = self.regularizer()
        plain = {key: value for key, value in vars(fresh).items() if isinstance(value, float | int | str | bool | None)}
        return {"regularizer": type(fresh).__qualname__, **plain}

    def as_data(self) -> dict[str, Any]:
        """Name, settings and plain fields, ready for JSON."""
        return {"name": self.name, "settings": dict(self.settings), "mode": self.mode, "rate": self.rate,
                "joint": self.joint}
