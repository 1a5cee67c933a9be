"""Which module mixes examples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from forgetting.fisher.agreement import independent
from forgetting.fisher.batches import Batch, choose, count, tensors

_Seen = list[tuple[str, list[Tensor], list[Tensor]]]


def culprit(model: nn.Module, run: Callable[[Batch], Tensor], batch: Batch) -> str:
    """The name of the first innermost module that gives an example other outputs beside others than alone, although
    its inputs agree; "the model" where no module alone does it."""
    last = count(batch) - 1
    alone, together = _traced(model, run, choose(batch, [0])), _traced(model, run, choose(batch, [0, last]))
    for (name, inputs, outputs), (other, more, both) in zip(alone, together, strict=False):
        if name != other:
            break
        if _agree(inputs, more) and not _agree(outputs, both):
            return f"the module {name!r} ({type(model.get_submodule(name)).__name__})" if name else "the model"
    return "the model"


def _traced(model: nn.Module, run: Callable[[Batch], Tensor], batch: Batch) -> _Seen:
    """Every call of a module without children, in the order in which they end, and of the others after them."""
    seen: _Seen = []
    names = {module: name for name, module in model.named_modules()}

    def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        given = [tensor.detach().clone() for tensor in tensors((args, kwargs))]
        seen.append((names[module], given, [tensor.detach().clone() for tensor in tensors(output)]))

    hooks = [module.register_forward_hook(note, with_kwargs=True) for module in names]
    try:
        with torch.no_grad():
            run(batch)
    finally:
        for hook in hooks:
            hook.remove()
    return seen


def _agree(alone: list[Tensor], together: list[Tensor]) -> bool:
    """Whether what one example gave stands unchanged in what two gave, wherever the examples lie."""
    return len(alone) == len(together) and all(map(_stands, alone, together))


def _stands(one: Tensor, two: Tensor) -> bool:
    if one.ndim != two.ndim:
        return False
    grown = [d for d in range(one.ndim) if one.shape[d] != two.shape[d]]
    if not grown:
        return _same(one, two)
    if len(grown) > 1 or one.shape[grown[0]] * 2 != two.shape[grown[0]]:
        return False
    (d,) = grown
    slower = two.narrow(d, 0, one.shape[d])
    faster = two.unflatten(d, (one.shape[d], 2)).select(d + 1, 0)
    return _same(one, slower) or _same(one, faster)


def _same(one: Tensor, other: Tensor) -> bool:
    try:
        independent(one, other)
    except ValueError:
        return False
    return True
