"""What a pattern or a depth covers: parameters, and the norm statistics that go with them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn
from torch.nn import Parameter

from forgetting.execution import first_uses, grouped
from forgetting.norms import norm_layers
from forgetting.parameters import Selection, canonical, select


def own(module: nn.Module) -> dict[str, Tensor]:
    """The parameters that a module owns directly, then its running statistics."""
    statistics = {name: module._buffers.get(name) for name in ("running_mean", "running_var")}
    return {name: tensor for name, tensor in (*module._parameters.items(), *statistics.items()) if tensor is not None}


def state(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and running statistics in the order of registration; tied and shared ones by all their names."""
    return {
        canonical(f"{path}.{name}" if path else name): tensor
        for path, module in model.named_modules(remove_duplicate=False)
        for name, tensor in own(module).items()
    }


def once(everything: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same, tied and shared ones by their first name only."""
    first_names = {id(tensor): name for name, tensor in reversed(everything.items())}
    return {name: tensor for name, tensor in everything.items() if first_names[id(tensor)] == name}


def covered(everything: Mapping[str, Tensor], selection: Selection) -> set[int]:
    """The identities of what a selection covers; a pattern that fits a module's path covers what lies in the module."""
    if not callable(selection) and selection is not None:
        patterns = [selection] if isinstance(selection, str) else list(selection)
        selection = [wider for pattern in patterns for wider in _widened(everything, pattern)]
    return {id(everything[name]) for name in select(everything, selection)}


def _widened(names: Iterable[str], pattern: str) -> list[str]:
    """The pattern, and the pattern for what lies in the modules that it names, as far as they fit something."""
    both = [pattern, f"{pattern}.*"] if isinstance(pattern, str) else []
    fitting = [candidate for candidate in both if any(fnmatchcase(name, candidate) for name in names)]
    return fitting or [pattern]


def by_depth(model: nn.Module, inputs: Any, *, blocks: bool = False) -> tuple[list[list[str]], list[list[str]]]:
    """The groups of :func:`forgetting.execution.used_and_unused`, with the statistics of norms without parameters.

    Those go to the group that runs before them: they move as soon as it learns.
    """
    tensors = once(state(model))
    parameters = [name for name, tensor in tensors.items() if isinstance(tensor, Parameter)]
    if not parameters:
        raise ValueError(f"{type(model).__name__} has no parameters: there is nothing to put in order")
    order = first_uses(model, inputs, tensors)
    used, unused = grouped(model, parameters, [name for name in order if name in set(parameters)], blocks=blocks)
    places = {name: place for place, group in enumerate(used) for name in group}
    bare = {id(tensor) for layer in norm_layers(model) if next(layer.parameters(recurse=False), None) is None
            for tensor in own(layer).values()}
    last = 0
    for name in order:
        if name in places:
            last = max(last, places[name])
        elif used and id(tensors[name]) in bare:
            used[last].append(name)
    return used, unused


def norms_of(model: nn.Module, frozen: set[int]) -> list[nn.Module]:
    """The norm layers of which a parameter or a statistic is among the frozen, by identity."""
    return [layer for layer in norm_layers(model) if frozen & {id(tensor) for tensor in own(layer).values()}]
