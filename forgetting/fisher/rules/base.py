"""What a rule is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import Tensor

Call = dict[str, Any]

_WIDE = (torch.float32, torch.float64)


class Rule(ABC):
    """The closed form of one family of torch functions.

    ``signatures`` maps each function to the names of its arguments in order; ``sources`` are the arguments that hold
    the examples and that the gradient needs, ``slots`` those that may hold a parameter.
    """

    name: str
    signatures: Mapping[Callable[..., Any], tuple[str, ...]]
    sources: tuple[str, ...] = ("input",)
    slots: tuple[str, ...] | None = ("weight", "bias")  # None: any argument

    def bind(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Call:
        """The call's arguments by name."""
        return {**dict(zip(self.signatures[function], args, strict=False)), **kwargs, "function": function}

    def needs(self, call: Call, slots: Collection[str]) -> tuple[str, ...]:
        """The arguments without which these slots have no gradient; a bias needs none."""
        return () if set(slots) <= {"bias"} else self.sources

    def operand(self, call: Call, key: str, output: Tensor) -> Tensor:
        """A needed argument as the closed form reads it."""
        return call[key]

    @abstractmethod
    def supports(self, call: Call, slots: Collection[str]) -> bool:
        """Whether the closed form holds for this call with parameters in these slots; if not, the fallback serves."""

    @abstractmethod
    def leading(self, call: Call) -> int:
        """How many first dimensions the source and the output share, so that they may hold the examples."""

    @abstractmethod
    def accumulate(self, sources: Sources, gradient: Tensor, call: Call, totals: Totals, power: int,
                   memory: int) -> None:
        """Add Σ over examples of |gradient|^power to the total of each slot that is asked for.

        Args:
            sources: argument -> [examples, repeats, …]; ``repeats`` counts what was merged into the example dimension.
            gradient: [examples, repeats, …] of the score by the output.
            call: the bound arguments.
            totals: slot -> a tensor of the parameter's shape, any strides.
            power: 1 or 2.
            memory: bytes that temporary per-example gradients may take.
        """

    @abstractmethod
    def add_gradients(self, sources: Sources, gradient: Tensor, call: Call, slot: str, out: Tensor) -> None:
        """Add the gradient of each example to ``out``, [examples, *the parameter's shape] and contiguous.

        For parameters with several uses, whose gradients are summed before the power.
        """


class Separable(Rule):
    """A rule whose gradients of an example can be single outer products: Σ over several cotangents of |gradient|^power
    is then one product with Σ |gradient at the output|^power."""

    @abstractmethod
    def separates(self, sources: Sources) -> bool:
        """Whether they are, for these sources."""

    @abstractmethod
    def accumulate_powers(self, sources: Sources, powers: Tensor, totals: Totals, power: int) -> None:
        """:meth:`accumulate`, with ``powers`` = Σ |gradient|^power in place of a gradient."""


class Whole(Rule):
    """A rule whose parameters are so small that the gradients of all examples may exist at once."""

    def accumulate(self, sources: Sources, gradient: Tensor, call: Call, totals: Totals, power: int,
                   memory: int) -> None:
        for slot, total in totals.items():
            add_powers(total, self.gradients(sources, gradient, call, slot), power)

    def add_gradients(self, sources: Sources, gradient: Tensor, call: Call, slot: str, out: Tensor) -> None:
        out.add_(self.gradients(sources, gradient, call, slot))

    @abstractmethod
    def gradients(self, sources: Sources, gradient: Tensor, call: Call, slot: str) -> Tensor:
        """[examples, *the parameter's shape]."""


Sources = Mapping[str, Tensor]
Totals = Mapping[str, Tensor]


def tile(memory: int, elements: int, like: Tensor) -> int:
    """How many examples' gradients of ``elements`` numbers fit in ``memory`` bytes; at least one."""
    return max(1, memory // max(1, elements * like.element_size()))


def widened(tensor: Tensor) -> Tensor:
    """In float32 or better: squares of half-precision gradients underflow."""
    return tensor if tensor.dtype in _WIDE else tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def powered(tensor: Tensor, power: int) -> Tensor:
    """|tensor|^power, power 1 or 2."""
    return tensor.square() if power == 2 else tensor.abs()


def add_powers(total: Tensor, gradients: Tensor, power: int) -> None:
    """total += Σ over the first dimension of |gradients|^power."""
    if power == 2 and len(gradients) <= 4:
        for gradient in gradients:
            total.addcmul_(gradient, gradient)
    else:
        total.add_(powered(gradients, power).sum(0))


def add_in_tiles(total: Tensor, examples: int, step: int, gradients: Callable[[slice], Tensor], power: int) -> None:
    """total += Σ over examples of |gradients|^power, ``step`` examples at a time, fewer where memory is short.

    Args:
        gradients: the gradients [examples, *shape] of a slice of the examples, in memory of their own.
    """
    start = 0
    while start < examples:
        part = slice(start, min(examples, start + step))
        try:
            found = gradients(part)
        except RuntimeError as error:
            if step == 1 or not exhausted(error):
                raise
            step = max(1, step // 2)
            continue
        if len(found) == 1 and power == 2:
            total.addcmul_(found[0], found[0])
        else:
            total.add_((found.square_() if power == 2 else found.abs_()).sum(0))
        start = part.stop


def in_place(function: Any) -> bool:
    """Whether a function writes into its first argument, by its name."""
    name = getattr(function, "__name__", "")
    return (name.endswith("_") and not name.endswith("__")) or name.startswith("__i")


def exhausted(error: RuntimeError) -> bool:
    """Whether there was not enough memory, on any device."""
    return isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error)
