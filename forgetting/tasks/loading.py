"""Weights of a file into a classifier, which is given the classes and the positions that the file has."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


def load(model: nn.Module, path: Path, pixels: int) -> None:
    """Tensors of a file into a model: by name, or by position where the names are another's; then sized for pixels."""
    found, own = _read(path), model.state_dict()
    if set(found) == set(own):
        _as_many_classes(model, found)
        if "pos_embed" in found and found["pos_embed"].shape != own["pos_embed"].shape:
            sized(model, pixels)
    else:
        shapes = [[tuple(tensor.shape) for tensor in tensors.values()] for tensors in (found, own)]
        if shapes[0] != shapes[1]:
            raise ValueError(f"{path} does not fit {type(model).__name__}: {len(found)} tensors for {len(own)}, with "
                             f"neither its names (it has {next(iter(found), 'none')!r}, expected {next(iter(own))!r}) "
                             "nor its shapes; take the network that these weights are of")
        found = dict(zip(own, found.values(), strict=True))
    own = model.state_dict()
    unfit = [f"{name} {tuple(found[name].shape)}, expected {tuple(own[name].shape)}" for name in own
             if found[name].shape != own[name].shape]
    if unfit:
        raise ValueError(f"{path} does not fit {type(model).__name__} at {pixels} pixels: {'; '.join(unfit[:3])}; take "
                         "the network and the pixels that these weights are of")
    model.load_state_dict(found)
    sized(model, pixels)


def sized(model: Any, pixels: int) -> None:
    """As many positions as images of that size have, where a transformer of timm has others."""
    size = getattr(getattr(model, "patch_embed", None), "img_size", None)
    if size is not None and tuple(size) != (pixels, pixels) and hasattr(model, "set_input_size"):
        model.set_input_size((pixels, pixels))


def last_linear(model: nn.Module) -> tuple[str, nn.Linear]:
    """The path of the last linear layer, and the layer."""
    layers = [(path, module) for path, module in model.named_modules() if not list(module.children())
              and next(module.parameters(recurse=False), None) is not None]
    linear = [(path, module) for path, module in layers if isinstance(module, nn.Linear)]
    if not linear or linear[-1] != layers[-1]:
        ends = type(layers[-1][1]).__name__ if layers else "nothing that learns"
        raise ValueError(f"the last layer of {type(getattr(model, 'backbone', model)).__name__} is {ends}, expected a "
                         "linear one, beside which new logits can stand; take another network")
    return linear[-1]


def _as_many_classes(model: nn.Module, found: Mapping[str, Tensor]) -> None:
    """A last layer with as many classes as the file's."""
    path, last = last_linear(model)
    classes = len(found[f"{path}.weight"])
    if classes != last.out_features:
        parent, _, name = path.rpartition(".")
        setattr(model.get_submodule(parent), name, nn.Linear(last.in_features, classes, bias=last.bias is not None))


def _read(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, no code of it run."""
    if not path.is_file():
        raise ValueError(f"weights={str(path)!r} is no file; expected one of tensors, 'hub' or 'none'")
    read: Callable[[], Mapping[str, Tensor]]
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        read = lambda: load_file(path)  # noqa: E731
    else:
        read = lambda: torch.load(path, map_location="cpu", weights_only=True)  # noqa: E731
    return dict(read())
