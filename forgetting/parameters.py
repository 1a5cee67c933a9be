"""The space that every method lives in: a model's parameters by name.

Everything in this library speaks of parameters as a mapping from name to tensor, keyed as
:meth:`torch.nn.Module.named_parameters` keys them. Names, never positions: a model that gains a head keeps the
meaning of every other entry.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Handle", "Parameters", "Selection", "evaluating", "named", "select", "snapshot"]

Parameters = dict[str, Tensor]
Selection = str | Iterable[str] | Callable[[str], bool] | None

_WRAPPERS = ("_orig_mod.",)
_AROUND = "base_model.model."  # what peft's own model puts in front of every name


def canonical(name: str) -> str:
    """The name without what ``torch.compile`` and peft put in front of it."""
    for wrapper in _WRAPPERS:
        name = name.replace(wrapper, "")
    return name.removeprefix(_AROUND)


def unwrapped(model: Any) -> nn.Module:
    """The model inside ``torch.compile``, ``DistributedDataParallel`` and ``DataParallel``, with plain names."""
    if not isinstance(model, nn.Module):
        kind = model.__name__ if isinstance(model, type) else type(model).__name__
        raise TypeError(f"the model must be a torch.nn.Module, got {'the class ' * isinstance(model, type)}{kind}; are "
                        "model and data swapped?")
    while True:
        wrapper = isinstance(model, (nn.parallel.DistributedDataParallel, nn.DataParallel))
        inner = getattr(model, "module" if wrapper else "_orig_mod", None)
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def select(names: Iterable[str], selection: Selection) -> list[str]:
    """The names that a selection covers, in their own order; a pattern that matches nothing raises.

    Args:
        names: parameter names.
        selection: ``None`` (all), shell patterns such as ``"layer4.*"`` (one or several), or a function of the name.

    Raises:
        ValueError: where a pattern matches no name.
        TypeError: where the selection is none of these.

    Example:
        >>> select(["body.weight", "body.bias", "head.weight"], "body.*")
        ['body.weight', 'body.bias']
    """
    names = list(names)
    if selection is None:
        return names
    if callable(selection):
        return [name for name in names if selection(name)]
    patterns = [selection] if isinstance(selection, str) else list(selection)
    if not all(isinstance(pattern, str) for pattern in patterns):
        raise TypeError(f"parameters= takes patterns or a function of a name, not {selection!r}")
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            shown = ", ".join(names[:8]) + (", …" if len(names) > 8 else "")
            module = any(name.startswith(f"{pattern}.") for name in names)
            hint = f"; did you mean the module {pattern + '.*'!r}?" if module else ""
            raise ValueError(f"the pattern {pattern!r} matches none of the {len(names)} parameters: {shown}{hint}")
    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]


def named(model: nn.Module, selection: Selection = None, *, trainable: bool = True) -> Parameters:
    """A model's live parameters by canonical name, tied ones once.

    Args:
        model: any module.
        selection: which of them, see :func:`select`.
        trainable: leave out those with ``requires_grad=False``.

    Raises:
        ValueError: where nothing is left, with the reason.

    Example:
        >>> list(named(nn.Linear(2, 1)))
        ['weight', 'bias']
    """
    everything = {canonical(name): parameter for name, parameter in unwrapped(model).named_parameters()}
    chosen = select(everything, selection)
    if not chosen:
        raise ValueError(f"parameters={selection!r} selects none of the model's {len(everything)} parameters")
    found: Parameters = {name: everything[name] for name in chosen if everything[name].requires_grad or not trainable}
    if not found:
        raise ValueError(
            f"none of the {len(chosen)} parameters requires a gradient: nothing can be learned or forgotten here; "
            "unfreeze some (parameter.requires_grad_()) or choose others with parameters="
        )
    return found


def snapshot(parameters: Mapping[str, Tensor]) -> Parameters:
    """Detached copies that share no memory with the live weights (fault F11: an aliasing anchor never pulls).

    Args:
        parameters: name -> tensor.

    **Cost**: one copy of them.

    Example:
        >>> live = {"w": torch.zeros(1)}
        >>> before = snapshot(live)
        >>> _ = live["w"].add_(1)
        >>> before
        {'w': tensor([0.])}
    """
    return {name: tensor.detach().clone() for name, tensor in parameters.items()}


class Handle:
    """Undoes what a call did to a model or an optimizer: by ``remove()``, or at the end of a ``with`` block.

    Args:
        undo: what there is to do, once.

    Example:
        >>> log = []
        >>> with Handle(lambda: log.append("undone")):
        ...     pass
        >>> log
        ['undone']
    """

    def __init__(self, undo: Callable[[], None]) -> None:
        self._undo: Callable[[], None] | None = undo

    def remove(self) -> None:
        """Undo; a second call does nothing."""
        undo, self._undo = self._undo, None
        if undo is not None:
            undo()

    def __enter__(self) -> Handle:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put the model into eval mode and give it back exactly as it was found, exceptions included.

    What is put back: every module's own train/eval flag (fault F7: ``model.train()`` would re-enable a norm layer
    that its owner had frozen), ``requires_grad``, ``.grad``, buffers, the state of the random generators, and the
    weights of embeddings with ``max_norm``, which a look-up rescales in place.

    Args:
        model: any module.

    **Cost**: one copy of the buffers (and of the weights of embeddings with ``max_norm``).

    Example:
        >>> model = nn.Dropout()
        >>> with evaluating(model):
        ...     model.training
        False
        >>> model.training
        True
    """
    modes = {module: module.training for module in model.modules()}
    parameters = [(parameter, parameter.requires_grad, parameter.grad) for parameter in model.parameters()]
    buffers = [(module, name, buffer, buffer.clone()) for module in model.modules()
               for name, buffer in module.named_buffers(recurse=False)]
    rescaled = [(module.weight, module.weight.detach().clone()) for module in model.modules()
                if isinstance(module, (nn.Embedding, nn.EmbeddingBag)) and module.max_norm is not None]
    devices = sorted({parameter.device.index for parameter, *_ in parameters if parameter.device.type == "cuda"})
    try:
        with torch.random.fork_rng(devices=devices):
            model.eval()
            yield
    finally:
        for module, training in modes.items():
            module.training = training
        for parameter, requires_grad, gradient in parameters:
            parameter.requires_grad_(requires_grad)
            parameter.grad = gradient
        with torch.no_grad():
            for module, name, buffer, value in buffers:
                module._buffers[name] = buffer
                if not torch.equal(buffer, value):
                    buffer.copy_(value)
            for weight, value in rescaled:
                weight.copy_(value)
