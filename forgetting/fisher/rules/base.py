"""What a rule is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

Call = dict[str, Any]


class Rule(ABC):
    """The closed form of one family of torch functions.

    ``signatures`` maps each function to the names of its arguments in order; ``source`` is the argument that holds
    the examples, ``slots`` those that may hold a parameter.
    """

    name: str
    signatures: Mapping[Callable[..., Any], tuple[str, ...]]
    source: str = "input"
    slots: tuple[str, ...] = ("weight", "bias")

    def bind(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Call:
        """The call's arguments by name."""
        return {**dict(zip(self.signatures[function], args, strict=False)), **kwargs, "function": function}

    @abstractmethod
    def supports(self, call: Call) -> bool:
        """Whether the closed form holds for this call; a call that it does not hold for goes to the fallback."""

    @abstractmethod
    def leading(self, call: Call) -> int:
        """How many of the source's first dimensions the output shares, so that they may hold the examples."""

    @abstractmethod
    def accumulate(self, source: Tensor, gradient: Tensor, call: Call, memory: int) -> dict[str, Tensor]:
        """Σ over examples of the squared gradient, a slot.

        Args:
            source: [examples, repeats, …] the input; ``repeats`` counts what was merged into the example dimension.
            gradient: [examples, repeats, …] of the score by the output.
            call: the bound arguments.
            memory: bytes that temporary per-example gradients may take.
        """


def tile(memory: int, elements: int, like: Tensor) -> int:
    """How many examples' gradients of ``elements`` numbers fit in ``memory`` bytes; at least one."""
    return max(1, memory // max(1, elements * like.element_size()))


def widened(tensor: Tensor) -> Tensor:
    """In float32 or better: squares of half-precision gradients underflow."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
