"""State dicts that are mixed: whether they fit, whether they are copies, and what lies between two of them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

Buffers = Literal["interpolate", "before", "after"]
BUFFERS = get_args(Buffers)


def between(
    before: Mapping[str, Any], after: Mapping[str, Any], amount: float, buffers: Buffers, buffer: Callable[[str], bool]
) -> dict[str, Any]:
    """The state at one amount, in new memory; ``buffer`` says which names ``buffers`` speaks of."""
    check(before, after, (amount,), buffers)
    parts = {name: {"interpolate": amount, "before": 0.0, "after": 1.0}[buffers] if buffer(name) else amount
             for name in after}
    return like(after, {name: _mix(before[name], after[name], parts[name]) for name in after})


def like(template: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Values as a state dict that loads where the template would."""
    state = OrderedDict(values)
    # load_state_dict reads the layers' versions there.
    vars(state).update(vars(template) if isinstance(template, OrderedDict) else {})
    return state


def copied(state: Mapping[str, Any]) -> dict[str, Any]:
    """A state dict that shares no memory with the live weights."""
    return like(state, {name: value.detach().clone() if isinstance(value, Tensor) else value
                        for name, value in state.items()})


def running(name: str) -> bool:
    """Whether a state dict's name is that of a running statistic."""
    return name.rpartition(".")[2].startswith("running_")


def buffers_of(model: nn.Module) -> set[str]:
    """The names of a model's buffers, shared ones by all their names."""
    return {name for name, _ in model.named_buffers(remove_duplicate=False)}


def precise(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which values of this one are mixed."""
    return dtype if dtype.itemsize >= 4 else torch.float32


def mixable(value: Any) -> bool:
    """Whether there is anything between two values of this kind."""
    return isinstance(value, Tensor) and (value.is_floating_point() or value.is_complex())


@torch.no_grad()
def _mix(before: Any, after: Any, amount: float) -> Any:
    """(1 - amount)·before + amount·after in after's dtype, exact where it can be; what is not floating is after's."""
    if not isinstance(after, Tensor):
        return after
    if not mixable(after) or amount == 1:
        return after.detach().clone()
    old = before.detach().to(device=after.device)
    dtype = precise(after.dtype)
    mixed = (1 - amount) * old.to(dtype) + amount * after.to(dtype)
    unchanged = (old == after) if amount else torch.ones_like(old, dtype=torch.bool)
    return torch.where(unchanged, old.to(dtype), mixed).to(after.dtype)


def check(before: Mapping[str, Any], after: Mapping[str, Any], amounts: Iterable[float], buffers: str) -> None:
    """Raise unless the two states fit each other and the numbers are in range."""
    for amount in amounts:
        if not 0 <= amount <= 1:
            raise ValueError(f"amount={amount!r} must lie in [0, 1]: 0 is before, 1 is after fine-tuning")
    known(buffers)
    missing, added = [n for n in before if n not in after], [n for n in after if n not in before]
    if missing or added:
        raise ValueError(
            f"the two states differ in their names: only before has {some(missing)}; only after has {some(added)}; "
            "interpolate what they share and take the rest from one of them"
        )
    shapes = [f"{name} {tuple(before[name].shape)} and {tuple(after[name].shape)}" for name in after
              if isinstance(after[name], Tensor) and before[name].shape != after[name].shape]
    if shapes:
        raise ValueError(f"the two states differ in their shapes, before and after: {some(shapes)}")


def known(buffers: str, choices: tuple[str, ...] = BUFFERS) -> None:
    """Raise for another source of buffers."""
    if buffers not in choices:
        quoted = [f'"{choice}"' for choice in choices]
        raise ValueError(f"buffers={buffers!r} must be {', '.join(quoted[:-1])} or {quoted[-1]}")


def share(one: Any, other: Any) -> bool:
    """Whether two tensors lie in the same memory."""
    if not (isinstance(one, Tensor) and isinstance(other, Tensor)) or 0 in (one.numel(), other.numel()):
        return False
    return one.device == other.device and one.data_ptr() == other.data_ptr()


def some(names: list[str]) -> str:
    """The first few names."""
    return (", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")) if names else "none"
