"""Raw parameters that broadcasting adds, multiplies or repeats: position embeddings, layer scale, class tokens."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from forgetting.fisher.rules.base import Call, Sources, Whole, widened


def reduced(gradient: Tensor, shape: torch.Size, dimension: int) -> Tensor:
    """Each example's gradient summed over what broadcasting repeated: [examples, *shape].

    Args:
        gradient: [examples, repeats, …]: an output's dimensions, the example dimension taken out and put in front.
        shape: of the operand, whose dimensions match the output's from the right.
        dimension: where in the output the example dimension was.
    """
    output = gradient.ndim - 1
    missing = output - len(shape)
    own = [d for d in range(missing, output) if shape[d - missing] != 1 and d != dimension]
    where = {d: (d + 2 if d < dimension else d + 1) for d in own}  # behind [examples, repeats]
    over = [d for d in range(1, gradient.ndim) if d not in where.values()]
    return (gradient.sum(over) if over else gradient).reshape(len(gradient), *shape)


class _Broadcast(Whole):
    """Functions of one output element an element, or copies: the gradient is the output's, reduced."""

    def needs(self, call: Call, slots: Collection[str]) -> tuple[str, ...]:
        return tuple(key for key in self.sources if key not in slots)

    def operand(self, call: Call, key: str, output: Tensor) -> Tensor:
        return call[key].expand(output.shape)

    def leading(self, call: Call) -> int:
        return 2**31

    def gradients(self, sources: Sources, gradient: Tensor, call: Call, slot: str) -> Tensor:
        """[examples, *the parameter's shape]."""
        return reduced(self.local(sources, widened(gradient), slot), call[slot].shape, call["dimension"])

    def local(self, sources: Sources, gradient: Tensor, slot: str) -> Tensor:
        """The gradient by the operand's copies, one an output element."""
        return gradient


class Add(_Broadcast):
    """x + p, p + x, in place too."""

    name = "add"
    signatures = dict.fromkeys((
        torch.add, Tensor.add, Tensor.add_, Tensor.__add__, Tensor.__radd__, Tensor.__iadd__), ("left", "right"))
    sources: tuple[str, ...] = ()
    slots = ("left", "right")

    def supports(self, call: Call, slots: Collection[str]) -> bool:
        return call.keys() <= {"left", "right", "function"}


class Subtract(Add):
    """x − p, p − x."""

    name = "sub"
    signatures = dict.fromkeys((
        torch.sub, Tensor.sub, Tensor.sub_, Tensor.__sub__, Tensor.__isub__), ("left", "right"))

    def local(self, sources: Sources, gradient: Tensor, slot: str) -> Tensor:
        return -gradient if slot == "right" else gradient


class Multiply(Add):
    """x · p, p · x: the other factor is needed."""

    name = "mul"
    signatures = dict.fromkeys((
        torch.mul, Tensor.mul, Tensor.mul_, Tensor.__mul__, Tensor.__rmul__, Tensor.__imul__), ("left", "right"))
    sources = ("left", "right")

    def local(self, sources: Sources, gradient: Tensor, slot: str) -> Tensor:
        return gradient * widened(sources["left" if slot == "right" else "right"])


class Expand(_Broadcast):
    """``expand``, ``expand_as``, ``broadcast_to``: copies along the examples."""

    name = "expand"
    signatures = {Tensor.expand: ("weight",), torch.broadcast_to: ("weight",), Tensor.broadcast_to: ("weight",),
                  Tensor.expand_as: ("weight",)}
    sources = ()
    slots = ("weight",)

    def supports(self, call: Call, slots: Collection[str]) -> bool:
        return True


class Repeat(Expand):
    """``repeat`` along dimensions of size one, which is what ``expand`` does."""

    name = "repeat"
    signatures = {Tensor.repeat: ("weight",), torch.tile: ("weight",), Tensor.tile: ("weight",)}

    def bind(self, function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Call:
        weight, *given = (*args, *kwargs.values())
        times = given[0] if len(given) == 1 and not isinstance(given[0], int) else given
        return {"weight": weight, "times": tuple(times), "function": function}

    def supports(self, call: Call, slots: Collection[str]) -> bool:
        times, shape = call["times"], call["weight"].shape
        behind = times[len(times) - len(shape):]
        return len(times) >= len(shape) and all(t == 1 or size == 1 for t, size in zip(behind, shape, strict=True))
