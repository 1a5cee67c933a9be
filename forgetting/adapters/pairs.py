"""What adapters change in a model: pairs of factors, by the name that the weight had before."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from forgetting.parameters import canonical, unwrapped


@dataclass(frozen=True)
class Pair:
    """A weight's change, s·BA.

    Args:
        up: B, [m, r], or a convolution's [m, r, 1, 1].
        down: A, [r, n], or a convolution's [r, channels, height, width].
        scale: s.
        transposed: whether the weight is kept as [n, m].
        shape: of the weight.
    """

    up: Tensor
    down: Tensor
    scale: float
    transposed: bool
    shape: tuple[int, ...]


def base_name(name: str) -> str:
    """The name that a parameter or a module had before peft came."""
    return canonical(name).replace(".base_layer", "")


def adapted(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Path and module of every layer that stands around another one as a low-rank adapter."""
    for path, module in model.named_modules():
        if hasattr(module, "base_layer") and hasattr(module, "lora_A") and hasattr(module, "scaling"):
            yield path, module


def pairs(model: nn.Module) -> dict[str, Pair]:
    """Name of a weight before the adapters came -> its pair.

    Raises:
        ValueError: for adapters whose change of the weight is not s·BA, with their place.
    """
    found = {}
    for path, layer in adapted(unwrapped(model)):
        name = f"{base_name(path)}.weight"
        reason = _unlike(layer)
        if reason or name in found:
            raise ValueError(f"the adapter at {path!r} {reason or 'stands around another one'}, so that the weight's "
                             "change is not one product s·BA; train it without a penalty on the product")
        (adapter,) = layer.lora_A
        found[name] = Pair(layer.lora_B[adapter].weight, layer.lora_A[adapter].weight, float(layer.scaling[adapter]),
                           bool(getattr(layer, "fan_in_fan_out", False)), tuple(layer.base_layer.weight.shape))
    return found


def _unlike(layer: Any) -> str:
    """What makes an adapter's change of the weight another one than s·BA; empty where nothing does."""
    if len(layer.lora_embedding_A):
        return "is an embedding's"
    if len(layer.lora_A) != 1:
        return f"is one of {len(layer.lora_A)}"
    if not isinstance(getattr(layer.base_layer, "weight", None), Tensor) or hasattr(layer, "parameter_name"):
        return "changes more than one weight, or a raw parameter"
    if any(getattr(layer, "use_dora", {}).values()) or getattr(layer, "lora_variant", {}):
        return "is a variant such as DoRA"
    if any(getattr(layer, "lora_bias", {}).values()):
        return "changes the bias too"
    if getattr(layer.base_layer, "groups", 1) > 1:
        return "is that of a convolution with groups"
    return ""
