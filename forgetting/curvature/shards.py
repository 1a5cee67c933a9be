"""Tensors in shards on several processes (DTensor): telling them, cutting them, putting them together."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from torch import Tensor


def sharded(value: Any) -> bool:
    """Whether a tensor is a DTensor, whose class nobody needs to load who has none."""
    loaded = sys.modules.get("torch.distributed.tensor")
    return loaded is not None and isinstance(value, loaded.DTensor)


def cut(value: Tensor, like: Any) -> Tensor:
    """This process's shard, placed like another DTensor, of a tensor that every process has whole; nothing is sent."""
    from torch.distributed.tensor import DTensor, Replicate

    mesh = like.device_mesh
    everywhere = DTensor.from_local(value, mesh, [Replicate()] * mesh.ndim, run_check=False)
    return everywhere.redistribute(mesh, like.placements)


def gathered(value: Any) -> Any:
    """The same nest of values with every DTensor whole; every process of its mesh calls this."""
    if isinstance(value, Mapping):
        return {key: gathered(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(gathered(entry) for entry in value)
    return value.full_tensor() if sharded(value) else value
