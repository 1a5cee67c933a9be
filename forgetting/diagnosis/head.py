"""Which layer is the head."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from forgetting.diagnosis.answers import Reader
from forgetting.fisher.batches import Batch
from forgetting.tasks.unknown import nearest


def find(model: nn.Module, batch: Batch, reader: Reader, name: str | None) -> str | None:
    """The linear layer whose outputs are the logits; the one that is named, where one is.

    Raises:
        ValueError: where the name is that of no module, or of none that is linear.
    """
    linear = {path: module for path, module in model.named_modules() if isinstance(module, nn.Linear)}
    if name is not None:
        modules = dict(model.named_modules())
        if name not in modules:
            raise ValueError(nearest("module for head=", name, linear))
        if name not in linear:
            raise ValueError(f"head={name!r} is a {type(modules[name]).__name__}, expected a linear layer: "
                             f"{', '.join(list(linear)[-5:]) or 'the network has none'}")
        return name
    outputs: dict[str, Tensor] = {}

    def observer(path: str) -> Any:
        return lambda _module, _inputs, given: outputs.update({path: given})

    hooks = [module.register_forward_hook(observer(path)) for path, module in linear.items()]
    try:
        with torch.no_grad():
            logits, _ = reader.raw(model, batch)
    finally:
        for hook in hooks:
            hook.remove()
    return next((path for path, given in reversed(outputs.items()) if same(given, logits)), None)


def same(one: Any, other: Tensor) -> bool:
    """Whether two tensors are the same numbers in the same memory."""
    return isinstance(one, Tensor) and one.shape == other.shape and one.data_ptr() == other.data_ptr()
