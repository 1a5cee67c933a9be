"""Weights from files, and whether two models are states of one network."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from forgetting.parameters import canonical, unwrapped

_HOLDERS = ("state_dict", "model_state_dict", "model")
_WRAPPER = "module."
_COUNTER = "num_batches_tracked"  # states that were saved by old versions of torch lack it


def load(model: nn.Module, file: str | Path) -> nn.Module:
    """Fill a model with the weights of a file, whatever wrapper they were saved from.

    Args:
        model: the network; filled in place.
        file: safetensors (by its name's end), or what ``torch.save`` made of a state dict, or of a mapping that holds
            one as ``"state_dict"``, ``"model_state_dict"`` or ``"model"``. It is read with ``weights_only=True``: no
            code in it runs. What ``torch.compile``, ``DataParallel`` and ``DistributedDataParallel`` put in front of
            names is taken off.

    Returns:
        The model.

    Raises:
        FileNotFoundError: where there is no such file.
        ValueError: for a file without weights, or with names or shapes that the network does not have; lists them.

    **Cost**: one copy of the weights.

    Example:
        >>> import tempfile
        >>> trained, fresh = nn.Linear(2, 1), nn.Linear(2, 1)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     torch.save({"module." + name: value for name, value in trained.state_dict().items()}, f"{folder}/a.pt")
        ...     bool((load(fresh, f"{folder}/a.pt").weight == trained.weight).all())
        True
    """
    path = Path(file)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path} (looked in {Path.cwd()})")
    inner = unwrapped(model)
    own = {canonical(name): name for name in inner.state_dict()}
    state = _plain(_read(path), own)
    _check(inner, {own.get(name, name): value for name, value in state.items()}, path)
    inner.load_state_dict({own[name]: value for name, value in state.items()}, strict=False)
    return model


def _read(path: Path) -> Mapping[str, Tensor]:
    """The tensors in a file, by the names they have there."""
    try:
        held: Any = (safetensors.torch.load_file(path) if path.suffix == ".safetensors"
                     else torch.load(path, map_location="cpu", weights_only=True))
    except pickle.UnpicklingError as error:
        raise ValueError(f"{path} holds more than tensors and plain values, or is no file of torch.save; save "
                         f"model.state_dict() alone ({str(error).splitlines()[0]})") from error
    except (SafetensorError, RuntimeError, EOFError) as error:
        raise ValueError(f"{path} cannot be read: {str(error).splitlines()[0]}") from error
    for holder in _HOLDERS:
        if isinstance(held, Mapping) and isinstance(held.get(holder), Mapping):
            held = held[holder]
    if not isinstance(held, Mapping) or not held or not all(isinstance(value, Tensor) for value in held.values()):
        raise ValueError(f"{path} holds no state dict, a mapping from names to tensors, but a {type(held).__name__}")
    return held


def _plain(state: Mapping[str, Tensor], own: Mapping[str, str]) -> dict[str, Tensor]:
    """The state by canonical names; ``module.`` goes where all names have it and the network does not."""
    found = {canonical(name): value for name, value in state.items()}
    while not found.keys() & own.keys() and all(name.startswith(_WRAPPER) for name in found):
        found = {name.removeprefix(_WRAPPER): value for name, value in found.items()}
    return found


def _check(model: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Raise for names and shapes that do not fit; tied weights may stand under one of their names."""
    expected = model.state_dict(keep_vars=True)
    held = {id(value) for name, value in expected.items() if name in state}
    missing = [name for name, value in expected.items()
               if name not in state and id(value) not in held and not name.endswith(_COUNTER)]
    added = [name for name in state if name not in expected]
    if missing or added:
        raise ValueError(f"{path} does not fit the network: only the network has {some(missing)}; only the file has "
                         f"{some(added)}")
    shapes = [f"{name} {tuple(expected[name].shape)} and {tuple(value.shape)}" for name, value in state.items()
              if expected[name].shape != value.shape]
    if shapes:
        raise ValueError(f"{path} does not fit the network in its shapes, the network's and the file's: {some(shapes)}")


def check_alike(before: nn.Module, after: nn.Module) -> None:
    """Raise unless two models have the same parameters and buffers, by name and shape."""
    shapes = [{name: tuple(value.shape) for name, value in (*model.named_parameters(), *model.named_buffers())}
              for model in (before, after)]
    missing, added = [n for n in shapes[0] if n not in shapes[1]], [n for n in shapes[1] if n not in shapes[0]]
    if missing or added:
        raise ValueError(f"the two models differ in their names: only before has {some(missing)}; only after has "
                         f"{some(added)}; compare two states of one network, the new weights in the old network say, "
                         "with the old head where the new one was replaced")
    other = [f"{name} {shapes[0][name]} and {shapes[1][name]}" for name in shapes[0]
             if shapes[0][name] != shapes[1][name]]
    if other:
        raise ValueError(f"the two models differ in their shapes, before and after: {some(other)}; compare two states "
                         "of one network")


def some(names: list[str]) -> str:
    """The first few names."""
    return (", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")) if names else "none"
