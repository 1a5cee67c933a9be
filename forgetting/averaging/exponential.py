"""An exponential moving average of the weights, taken while they are trained."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from forgetting.averaging.following import Follower
from forgetting.averaging.states import copied, known, like, mixable, precise, some
from forgetting.parameters import Parameters, canonical

__all__ = ["ExponentialAverage"]

_VERSION = 1


class ExponentialAverage(Follower):
    r"""A second set of weights that trails those that are trained, by an exponential moving average.

    .. math:: \bar\theta_t = d\,\bar\theta_{t-1} + (1 - d)\,\theta_t

    with :math:`\theta_t` the weights after step t and :math:`\bar\theta_0` those at the time of the call: for a
    pretrained model, what it knew, which counts :math:`d^t` after t steps. So the average of a training much shorter
    than :math:`1/(1-d)` steps is little else than the model before it.

    Make it before training, ``follow(optimizer)``, and look at the averaged weights in ``with average.swapped():`` or
    keep them by ``model.load_state_dict(average.averaged())``.

    Args:
        model: any module, at its first weights.
        decay: d in [0, 1].
        buffers: ``"after"``: running statistics and other buffers are the trained model's present ones;
            ``"interpolate"``: the floating ones are averaged like weights, counters are the present ones.

    Attributes:
        taken: how many steps are in the average.

    Raises:
        ValueError: for a decay outside [0, 1] or another source of buffers; at a step, where a parameter was added,
            removed or changed its shape.
        RuntimeError: at a step while the averaged weights are swapped in.

    **Cost**: one copy of the parameters, in float32 where they have fewer bits (in bfloat16 the average would stop
    moving: at decay 0.999 a step adds less than its last digit); one pass over them a step. Swapping in takes two
    copies more while it lasts.

    **Reference**: Polyak and Juditsky, "Acceleration of stochastic approximation by averaging", 1992, for averaging;
    Tarvainen and Valpola, "Mean teachers are better role models", 2017 (arXiv 1703.01780), section 2, for the
    exponential one.
    **Differs**: the decay does not ramp up, so that the first weights are not forgotten faster than later ones.
    :class:`torch.optim.swa_utils.AveragedModel` starts from the weights after the first step and keeps their dtype.

    Example:
        >>> model = nn.Linear(1, 1, bias=False).requires_grad_(False)
        >>> _ = model.weight.fill_(0.0)
        >>> average = ExponentialAverage(model, 0.75)
        >>> _ = model.weight.fill_(8.0)
        >>> average.update()
        >>> with average.swapped():
        ...     model.weight.item()
        2.0
        >>> model.weight.item()
        8.0
    """

    def __init__(self, model: nn.Module, decay: float, *, buffers: Literal["interpolate", "after"] = "after") -> None:
        super().__init__(model)
        if not 0 <= decay <= 1:
            raise ValueError(f"decay={decay!r} must lie in [0, 1]: it is what the average keeps of itself a step")
        known(buffers, ("interpolate", "after"))
        self.decay = decay
        self.buffers = buffers
        self._swapped = False
        self._values = {name: value.detach().to(precise(value.dtype), copy=True)
                        for name, value in self._live().items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take the present weights into the average; ``follow`` calls this after every step."""
        if self._swapped:
            raise RuntimeError("the averaged weights are swapped in, so this step trained them and not the model's "
                               "own; leave swapped() before training goes on")
        live = self._live()
        self._check({name: value.shape for name, value in live.items()}, "the model")
        averages, weights = [], []
        for name, average in self._values.items():
            weight = live[name].detach()
            if weight.device != average.device:
                average = self._values[name] = average.to(weight.device)
            if weight.dtype == average.dtype:
                averages.append(average)
                weights.append(weight)
            else:  # one at a time, so that there is no second copy of all of them
                average.lerp_(weight.to(average.dtype), 1 - self.decay)
        if averages:
            get_ema_multi_avg_fn(self.decay)(averages, weights, 0)
        self.taken += 1

    def averaged(self) -> dict[str, Any]:
        """The model's state with the averaged weights, in new memory and in the model's dtypes."""
        live = self._live()
        self._check({name: value.shape for name, value in live.items()}, "the model")
        names = {id(value): name for name, value in live.items()}
        state = self.plain.state_dict(keep_vars=True)
        result: dict[str, Any] = {}
        for name, value in state.items():
            if id(value) in names:
                result[name] = self._values[names[id(value)]].to(value.device, value.dtype, copy=True)
            else:
                result[name] = value.detach().clone() if isinstance(value, Tensor) else value
        return like(state, result)

    @contextlib.contextmanager
    def swapped(self) -> Iterator[nn.Module]:
        """The model with the averaged weights, for the length of a ``with`` block; then its own come back, bit for bit.

        Raises:
            RuntimeError: where they are swapped in already.
        """
        if self._swapped:
            raise RuntimeError("the averaged weights are swapped in already")
        plain = self.plain
        averaged, trained = self.averaged(), copied(plain.state_dict())
        self._swapped = True
        try:
            plain.load_state_dict(averaged)
            yield self.model
        finally:
            plain.load_state_dict(trained)
            self._swapped = False

    def state_dict(self) -> dict[str, Any]:
        """The average and how many steps are in it, as tensors and plain values; settings are not part of it."""
        return {"version": _VERSION, "taken": self.taken,
                "values": {name: value.clone() for name, value in self._values.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what :meth:`state_dict` gave.

        Raises:
            ValueError: where it is the state of another model or another version. Nothing is changed then.
        """
        if state.get("version") != _VERSION:
            raise ValueError(f"this is no state of an ExponentialAverage of version {_VERSION}, its version is "
                             f"{state.get('version')!r}")
        self._check({name: value.shape for name, value in state["values"].items()}, "the state")
        self._values = {name: state["values"][name].detach().to(value, copy=True)
                        for name, value in self._values.items()}
        self.taken = int(state["taken"])

    def _live(self) -> Parameters:
        """What is averaged, as it is now, tied weights once."""
        live: Parameters = {canonical(name): value for name, value in self.plain.named_parameters()}
        if self.buffers == "interpolate":
            live.update((canonical(name), value) for name, value in self.plain.named_buffers())
        return {name: value for name, value in live.items() if mixable(value)}

    def _check(self, shapes: Mapping[str, torch.Size], whose: str) -> None:
        """Raise unless these are the names and shapes of the average."""
        apart = [name for name in {**self._values, **shapes}
                 if name not in self._values or shapes.get(name) != self._values[name].shape]
        if apart:
            raise ValueError(f"{whose} and the average differ in the names or shapes of {some(apart)}; make a new "
                             "ExponentialAverage after the model has changed")
