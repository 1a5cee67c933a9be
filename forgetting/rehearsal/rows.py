"""Inputs of any shape, one row an example: a tensor, or tuples and mappings of tensors."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

_LEAF = "*"


def flattened(inputs: Any) -> tuple[Any, list[Tensor]]:
    """The structure in plain data, and the tensors in its order; mappings in the order of their keys."""
    if isinstance(inputs, Tensor):
        return _LEAF, [inputs]
    if isinstance(inputs, Mapping):
        parts = {str(key): flattened(inputs[key]) for key in sorted(inputs)}
        leaves = [leaf for _, some in parts.values() for leaf in some]
        return {key: layout for key, (layout, _) in parts.items()}, leaves
    if isinstance(inputs, (tuple, list)):
        pieces = [flattened(value) for value in inputs]
        return [layout for layout, _ in pieces], [leaf for _, some in pieces for leaf in some]
    raise TypeError(f"a memory keeps tensors, and tuples and mappings of them, not a {type(inputs).__name__}: leave it "
                    "out in the collator")


def rebuilt(layout: Any, leaves: Iterator[Tensor]) -> Any:
    """The structure with these tensors in it; a list has become a tuple."""
    if isinstance(layout, dict):
        return {key: rebuilt(value, leaves) for key, value in layout.items()}
    if isinstance(layout, list):
        return tuple(rebuilt(value, leaves) for value in layout)
    return next(leaves)


def joined(first: Any, second: Any) -> Any:
    """Both batches in one; the second comes to the devices and dtypes of the first."""
    layout, leaves = flattened(first)
    other, more = flattened(second)
    if layout != other:
        raise ValueError(f"batches of one structure can be joined, not {layout} and {other}")
    return rebuilt(layout, iter([torch.cat([a, b.to(a.device, a.dtype)]) for a, b in zip(leaves, more, strict=True)]))


class Rows:
    """Examples of one structure in tensors that have room to grow."""

    def __init__(self) -> None:
        self._layout: Any = None
        self._leaves: list[Tensor] = []
        self._length = 0

    def __len__(self) -> int:
        return self._length

    @property
    def bytes(self) -> int:
        """What the tensors take, the room to grow included."""
        return sum(leaf.numel() * leaf.element_size() for leaf in self._leaves)

    def put(self, slots: Tensor, batch: Any, chosen: Tensor, most: int) -> None:
        """Write the chosen examples of a batch into rows, of which those at the end are new; ``most``: rows ever."""
        layout, leaves = flattened(batch)
        if not self._leaves:
            self._layout = layout
            self._leaves = [leaf.detach().new_empty((0, *leaf.shape[1:])) for leaf in leaves]
        self._check(layout, leaves)
        length = max(self._length, int(slots.max()) + 1)
        if length > len(self._leaves[0]):
            self._grow(min(max(length, 2 * len(self._leaves[0])), max(most, length)))
        self._length = length
        for mine, leaf in zip(self._leaves, leaves, strict=True):
            mine[slots.to(mine.device)] = leaf.detach()[chosen.to(leaf.device)].to(mine.device)

    def take(self, indices: Tensor) -> Any:
        """These rows, as copies."""
        return rebuilt(self._layout, iter([leaf[indices.to(leaf.device)] for leaf in self._leaves]))

    def state(self) -> dict[str, Any]:
        """Structure and tensors in plain data."""
        leaves = {str(number): leaf[: self._length].clone() for number, leaf in enumerate(self._leaves)}
        return {"layout": json.dumps(self._layout), "length": self._length, "tensors": leaves}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over what :meth:`state` gave."""
        self._layout, self._length = json.loads(state["layout"]), state["length"]
        self._leaves = [state["tensors"][str(number)].clone() for number in range(len(state["tensors"]))]

    def _grow(self, room: int) -> None:
        for number, leaf in enumerate(self._leaves):
            larger = leaf.new_empty((room, *leaf.shape[1:]))
            larger[: self._length] = leaf[: self._length]
            self._leaves[number] = larger

    def _check(self, layout: Any, leaves: list[Tensor]) -> None:
        """Raise for examples that are not like those that are here."""
        shapes = [tuple(leaf.shape[1:]) for leaf in self._leaves], [tuple(leaf.shape[1:]) for leaf in leaves]
        if layout != self._layout or shapes[0] != shapes[1]:
            raise ValueError(f"a memory keeps examples of one shape: it has {self._layout} of {shapes[0]}, now come "
                             f"{layout} of {shapes[1]}; pad sequences to one length")
        kinds = [leaf.dtype for leaf in self._leaves], [leaf.dtype for leaf in leaves]
        if kinds[0] != kinds[1]:
            raise ValueError(f"a memory keeps examples of one dtype: it has {kinds[0]}, now come {kinds[1]}")
