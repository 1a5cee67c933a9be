"""Whether the values of the data may have decided a shape: packed tokens, mixtures of experts."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from forgetting.fisher.batches import tensors

_DECIDING = frozenset((
    torch.nonzero, Tensor.nonzero, torch.masked_select, Tensor.masked_select, torch.unique, Tensor.unique,
    Tensor.item, Tensor.tolist, Tensor.numpy, Tensor.__int__, Tensor.__index__,
))


class Deciding(TorchDispatchMode):
    """Notes whether an operation ran whose output's shape depends on values."""

    def __init__(self) -> None:
        super().__init__()
        self.decided = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if torch.Tag.dynamic_output_shape in func.tags or "pack_padded" in func.__name__:
            by_mask = [index for index in tensors(args[1:2]) if index.dtype in (torch.bool, torch.uint8)]
            self.decided = self.decided or func.overloadpacket is not torch.ops.aten.index or bool(by_mask)
        return func(*args, **(kwargs or {}))


def decides(func: Any, args: Any) -> bool:
    """Whether the values of a tensor may decide a shape here."""
    if func is Tensor.__getitem__:
        indices = args[1] if isinstance(args[1], tuple) else (args[1],)
        return any(isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8) for index in indices)
    return func in _DECIDING or (func is torch.where and len(args) == 1)
