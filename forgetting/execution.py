"""In which order a model uses its parameters: what "depth" means for a network of any shape."""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from forgetting.parameters import canonical, evaluating

__all__ = ["execution_groups"]

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def execution_groups(model: nn.Module, inputs: Any = None, *, blocks: bool = False) -> list[list[str]]:
    """A model's parameters, grouped by the module that owns them, in the order in which a forward pass uses them.

    A group holds what one module owns directly (a convolution's weight and bias; a transformer's class token and
    position embedding) and stands where the first of them is used. Every parameter is in exactly one group: a shared
    module and a tied weight at their first use; a parameter whose module is never called (the output projection of
    :class:`torch.nn.MultiheadAttention`) where its values are used. Groups that the pass did not use come last, in
    the order of registration.

    Args:
        model: any module; frozen parameters are listed like others.
        inputs: what one forward pass takes: a tensor, a tuple of positional or a mapping of keyword arguments, on the
            model's device. ``None`` runs nothing and takes the order of registration, which is the order of the
            constructor and not always that of the forward pass.
        blocks: join the groups inside one block. A block is an outermost module that is no plain container, has
            children with parameters, and whose class occurs in the model more than once: a transformer's layer, a
            residual block, a stage of a ConvNeXt.

    Returns:
        Lists of names, as :func:`forgetting.parameters.named` gives them.

    Raises:
        ValueError: where the model has no parameters, or the pass uses none of them.

    Cost:
        One forward pass in eval mode without gradients, and a copy of the buffers. The model is left as found. Code
        made by ``torch.compile`` is not used for it.

    Example:
        >>> class Reversed(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.head, self.body = nn.Linear(3, 2), nn.Linear(4, 3)
        ...     def forward(self, inputs):
        ...         return self.head(self.body(inputs))
        >>> execution_groups(Reversed())
        [['head.weight', 'head.bias'], ['body.weight', 'body.bias']]
        >>> execution_groups(Reversed(), torch.zeros(1, 4))
        [['body.weight', 'body.bias'], ['head.weight', 'head.bias']]
    """
    used, unused = used_and_unused(model, inputs, blocks=blocks)
    return used + unused


def used_and_unused(model: nn.Module, inputs: Any = None, *,
                    blocks: bool = False) -> tuple[list[list[str]], list[list[str]]]:
    """The groups that a forward pass uses, in order, and those it does not use; without inputs all count as used."""
    parameters = {canonical(name): parameter for name, parameter in model.named_parameters()}
    if not parameters:
        raise ValueError(f"{type(model).__name__} has no parameters: there is nothing to put in order")
    return grouped(model, parameters, first_uses(model, inputs, parameters), blocks=blocks)


def grouped(model: nn.Module, names: Iterable[str], order: Iterable[str], *,
            blocks: bool = False) -> tuple[list[list[str]], list[list[str]]]:
    """Names by the module, or block, that owns them: the owners met in the order, then those that are not."""
    owner = _block_owner(model) if blocks else _owner
    met = dict.fromkeys(owner(name) for name in order)
    groups: dict[str, list[str]] = {place: [] for place in met}
    for name in names:
        groups.setdefault(owner(name), []).append(name)
    return [groups[place] for place in groups if place in met], [groups[place] for place in groups if place not in met]


def _owner(name: str) -> str:
    """The path of the module that owns a parameter; a parametrised weight and an adapter belong to their layer."""
    path = "." + name.rpartition(".")[0]
    for inside in (".parametrizations.", ".base_layer", ".lora_"):
        path = path.partition(inside)[0]
    return path.removeprefix(".")


def _block_owner(model: nn.Module) -> Callable[[str], str]:
    """A function from a parameter's name to the path of the outermost block around it, else of its module."""
    composite = {
        canonical(path): type(module) for path, module in model.named_modules()
        if module is not model and type(module) not in _CONTAINERS
        and any(next(child.parameters(), None) is not None for child in module.children())
    }
    occurrences = Counter(composite.values())
    repeated = {path for path, kind in composite.items() if occurrences[kind] > 1}

    def owner(name: str) -> str:
        parts = name.split(".")
        paths = (".".join(parts[:length]) for length in range(1, len(parts)))
        return next((path for path in paths if path in repeated), _owner(name))

    return owner


def first_uses(model: nn.Module, inputs: Any, tensors: Mapping[str, Tensor]) -> list[str]:
    """The names of these tensors of a model in the order in which a forward pass first uses them, unused ones left out.

    Without inputs: all, in their own order. A tensor is used where a torch function receives it and returns a tensor;
    one that no torch function is seen to receive (compiled extensions) counts as used when its module is called, where
    that module has no children.
    """
    if inputs is None:
        return list(tensors)
    names = {id(tensor): name for name, tensor in tensors.items()}
    watch = _Watch(names)
    called: dict[str, int] = {}
    hooks: list[RemovableHandle] = []

    def entered(module: nn.Module, _inputs: object) -> None:
        for tensor in (*module._parameters.values(), *module._buffers.values()):
            if id(tensor) in names:
                called.setdefault(names[id(tensor)], watch.tick())

    leaves = [module for module in model.modules() if next(module.children(), None) is None]
    try:
        hooks.extend(module.register_forward_pre_hook(entered) for module in leaves)
        with evaluating(model), torch.no_grad(), _uncompiled(), watch:
            _call(model, inputs)
    finally:
        for hook in hooks:
            hook.remove()
    moments = {**called, **watch.used}
    if not moments:
        raise ValueError(f"the forward pass of {type(model).__name__} uses none of its {len(tensors)} parameters")
    return sorted(moments, key=moments.__getitem__)


class _Watch(TorchFunctionMode):
    """Notes the moment at which a torch function first receives each of some tensors."""

    def __init__(self, names: Mapping[int, str]) -> None:
        super().__init__()
        self.names = names
        self.used: dict[str, int] = {}
        self.now = 0

    def tick(self) -> int:
        """The next moment."""
        self.now += 1
        return self.now

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (),
                           kwargs: dict[str, Any] | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        # Reading a shape or a dtype is not a use: models ask their first parameter for both.
        if next(_tensors(result), None) is not None:
            for tensor in _tensors((args, kwargs)):
                if id(tensor) in self.names:
                    self.used.setdefault(self.names[id(tensor)], self.tick())
        return result


def _tensors(value: Any) -> Iterator[Tensor]:
    """The tensors in nested tuples, lists and mappings, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _tensors(item)


def _call(model: nn.Module, inputs: Any) -> None:
    """One forward pass on a tensor, a tuple of positional or a mapping of keyword arguments."""
    if isinstance(inputs, Mapping):
        model(**inputs)
    elif isinstance(inputs, tuple):
        model(*inputs)
    else:
        model(inputs)


def _uncompiled() -> contextlib.AbstractContextManager[Any]:
    """Run Python and not compiled code, which no mode and no new hook sees."""
    if "torch._dynamo" not in sys.modules:
        return contextlib.nullcontext()
    return torch.compiler.set_stance("force_eager")
