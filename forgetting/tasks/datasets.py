"""Reading any data set of (input, label) pairs into two tensors."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor


def materialize(dataset: Any) -> tuple[Tensor, Tensor]:
    """The inputs [n, ...] and labels [n] of a data set of pairs, read once."""
    inputs: list[Tensor] = []
    labels: list[int] = []
    with torch.random.fork_rng():
        for index, item in enumerate(_items(dataset)):
            if not isinstance(item, (tuple, list)) or len(item) != 2:
                raise TypeError(f"item {index} must be a pair (input, label), not {_shown(item)}")
            value = _tensor(item[0], index)
            if inputs and (value.shape, value.dtype) != (inputs[0].shape, inputs[0].dtype):
                raise ValueError(
                    f"input {index} is {value.dtype} of shape {tuple(value.shape)}, input 0 is {inputs[0].dtype} of "
                    f"shape {tuple(inputs[0].shape)}; give all inputs one shape, for example by a resizing transform"
                )
            inputs.append(value)
            labels.append(_label(item[1], index))
    if not inputs:
        raise ValueError(f"the data set is empty: {_shown(dataset)}")
    return torch.stack(inputs), torch.tensor(labels)


def _items(dataset: Any) -> Iterator[Any]:
    """The items in their order; a length is trusted, since few data sets end by raising IndexError."""
    if hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__"):
        return (dataset[index] for index in range(len(dataset)))
    if isinstance(dataset, Iterable):
        return iter(dataset)
    raise TypeError(f"a data set of (input, label) pairs is needed, not {_shown(dataset)}")


def _tensor(value: Any, index: int) -> Tensor:
    """One input as a tensor; PIL images and arrays with channels first."""
    if hasattr(value, "getbands"):
        value = np.asarray(value if value.mode in ("L", "RGB") else value.convert(_MODES.get(value.mode, "RGB")))
    if isinstance(value, np.ndarray):
        if value.ndim == 2:
            value = value[None]
        elif value.ndim == 3:
            value = value.transpose(2, 0, 1)
        value = torch.from_numpy(np.array(value, order="C"))
    if not isinstance(value, Tensor):
        raise TypeError(f"input {index} must be a tensor, an array or a PIL image, not {_shown(value)}")
    return value.detach().to("cpu", torch.float32) if value.is_floating_point() else value.detach().cpu()


_MODES = {"1": "L", "LA": "L"}


def _label(value: Any, index: int) -> int:
    """One label as an integer."""
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"label {index} must be an integer, not {_shown(value)}") from None


def _shown(value: Any) -> str:
    """A short text for errors."""
    return f"{type(value).__name__} {value!r}"[:80]
