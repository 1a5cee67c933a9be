"""Which layers of a model a low-rank adapter fits."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

import torch
from torch import nn

from forgetting.parameters import Selection, canonical, evaluating

_FUSED = (nn.MultiheadAttention, nn.TransformerEncoderLayer)


def chosen(model: nn.Module, modules: Selection, inputs: Any, learning: Collection[str]) -> list[str]:
    """The paths of the layers that get an adapter, in order of registration.

    Args:
        model: any module.
        modules: what the user said; ``None`` for all that can have one, but the last and what learns whole.
        inputs: of one forward pass, which says what is last; ``None`` for the order of registration.
        learning: the names of the parameters that learn whole.

    Raises:
        ValueError: where that leaves nothing, or a pattern covers no layer that can have one, with the reasons.
    """
    layers = linear_layers(model)
    reasons = obstacles(model, layers)
    reasons.update({path: "it learns whole (head=)" for path in layers if f"{canonical(path)}.weight" in learning})
    if modules is None:
        end = last(model, layers, inputs) if layers else None
        usual = [path for path in layers if path != end and path not in reasons]
        if not usual:
            known = "; ".join(f"{path}: {reason}" for path, reason in list(reasons.items())[:5])
            raise ValueError(f"{type(model).__name__} has no layer that an adapter could be added to, beside the last "
                             f"({end}){': ' if known else ''}{known}; name layers by modules=")
        return usual
    patterns = [modules] if isinstance(modules, str) or callable(modules) else list(modules)
    found: set[str] = set()
    for pattern in patterns:
        covered = matching(layers, pattern, "linear layers and 2d convolutions")
        fitting = [path for path in covered if path not in reasons]
        if not fitting:
            wrong = "; ".join(f"{path}: {reasons[path]}" for path in covered[:5])
            raise ValueError(f"modules={pattern!r} asks for adapters where there can be none: {wrong or 'no layer'}")
        found.update(fitting)
    return [path for path in layers if path in found]


def matching(names: Iterable[str], selection: Selection, what: str) -> list[str]:
    """The names that a selection covers; a pattern covers a path and all below it, and must cover something."""
    names = list(names)
    if selection is None:
        return []
    if callable(selection):
        return [name for name in names if selection(name)]
    patterns = [selection] if isinstance(selection, str) else list(selection)
    found: set[str] = set()
    for pattern in patterns:
        covered = {name for name in names if fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*")}
        if not covered:
            shown = ", ".join(names[:8]) + (", …" if len(names) > 8 else "")
            raise ValueError(f"the pattern {pattern!r} matches none of the model's {len(names)} {what}: {shown}")
        found |= covered
    return [name for name in names if name in found]


def linear_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Path -> every linear layer and 2d convolution, each once, in order of registration."""
    return {path: module for path, module in model.named_modules() if isinstance(module, _kinds())}


def last(model: nn.Module, layers: Mapping[str, nn.Module], inputs: Any) -> str:
    """The layer that is called last in a forward pass; without inputs, the one that was registered last."""
    if inputs is None:
        return list(layers)[-1]
    order: list[str] = []

    def note(path: str, *_: object) -> None:
        order.append(path)

    hooks = [layer.register_forward_pre_hook(partial(note, path)) for path, layer in layers.items()]
    try:
        with evaluating(model), torch.no_grad():
            if isinstance(inputs, Mapping):
                model(**inputs)
            else:
                model(*inputs) if isinstance(inputs, tuple) else model(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    if not order:
        raise ValueError(f"the forward pass of {type(model).__name__} calls none of its {len(layers)} linear layers")
    return order[-1]


def obstacles(model: nn.Module, layers: Mapping[str, nn.Module]) -> dict[str, str]:
    """Path -> why a layer cannot have an adapter that is exact while it learns and when it is merged."""
    uses = Counter(id(tensor) for _, module in model.named_modules(remove_duplicate=False)
                   for tensor in module._parameters.values())
    fused = [f"{path}." if path else "" for path, module in model.named_modules() if isinstance(module, _FUSED)]
    found: dict[str, str] = {}
    for path, layer in layers.items():
        weight = layer._parameters.get("weight")
        if not path:
            found[path] = "it is the whole model, and an adapter stands around a layer: put it into nn.Sequential"
        elif any(path.startswith(place) for place in fused):
            found[path] = "the attention or encoder layer around it reads its weight without calling it"
        elif weight is None:
            found[path] = "its weight is made anew at each use (a parametrization)"
        elif uses[id(weight)] > 1:
            found[path] = "its weight is used elsewhere too (tied or shared), where the adapter would be missing"
        elif not any(type(layer).forward is kind.forward for kind in _kinds()):
            found[path] = f"its class {type(layer).__name__} computes in a way of its own"
        elif isinstance(layer, nn.Conv2d) and layer.groups > 1:
            found[path] = f"its {layer.groups} groups are not a matrix product"
        elif isinstance(layer, nn.Conv2d) and (set(layer.dilation) != {1} or layer.padding_mode != "zeros"):
            found[path] = "peft's adapter knows neither dilation nor padding other than zeros"
    return found


def _kinds() -> tuple[type[Any], ...]:
    """The classes of layers that adapters are made for; transformers' Conv1D is a linear layer too."""
    module = sys.modules.get("transformers.pytorch_utils")
    return (nn.Linear, nn.Conv2d, *((module.Conv1D,) if module is not None else ()))
