"""The pass on a GPU: one kernel for all parameters, or a few over lists of tensors where there is none to call."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from forgetting.curvature.compressed import Compressed
from forgetting.regularizers.blocks import Held

_GROUP = 2**26  # elements whose differences are in memory at a time
_READ = (torch.float32, torch.float16, torch.bfloat16)


def possible(items: Sequence[Held]) -> bool:
    """Whether all is on one GPU, and in a form that a kernel for many tensors reads."""
    devices = {item.weight.device for item in items} | {item.anchor.device for item in items}
    if len(devices) != 1 or devices.pop().type != "cuda":
        return False
    packed = any(isinstance(part, Compressed) for item in items for part in (item.anchor, item.importance))
    return not packed or _kernel(items) is not None


def evaluate(
    items: Sequence[Held], factor: float, dtypes: Sequence[torch.dtype | None]
) -> tuple[Tensor, list[Tensor | None]]:
    """½·factor·Σ A(θ−μ)², and factor·A(θ−μ) where a dtype is given for it."""
    kernel = _kernel(items)
    if kernel is not None:
        gradients = [item.blank(dtype).zero_() if dtype is not None else None
                     for item, dtype in zip(items, dtypes, strict=True)]
        return _launch(kernel, items, factor, gradients), gradients
    sums: list[Tensor] = []
    found: list[Tensor | None] = []
    for group in _groups(items):
        delta, product = _product(group)
        torch._foreach_mul_(delta, product)
        # The 1-norm of what is never negative is its sum, in one launch.
        sums += torch._foreach_norm(delta, 1)
        torch._foreach_mul_(product, factor)
        wanted = dtypes[len(found) : len(found) + len(group)]
        found += [part.to(dtype) if dtype is not None else None for part, dtype in zip(product, wanted, strict=True)]
    return torch.stack([part.double() for part in sums]).sum() * (0.5 * factor), found


def add(items: Sequence[Held], factor: float, gradients: Sequence[Tensor]) -> None:
    """Add factor·A(θ−μ) to the gradients."""
    kernel = _kernel(items)
    if kernel is not None:
        _launch(kernel, items, factor, gradients)
        return
    done = 0
    for group in _groups(items):
        _, product = _product(group)
        torch._foreach_add_(list(gradients[done : done + len(group)]), product, alpha=factor)
        done += len(group)


def _kernel(items: Sequence[Held]) -> ModuleType | None:
    """The module of the kernel that reads these; ``None`` where it cannot, or Triton is not installed."""
    for item in items:
        if isinstance(item.importance, float) or not item.fits(item.weight):
            return None
        tensors = [part for part in (item.weight, item.anchor, item.importance) if not isinstance(part, Compressed)]
        if any(tensor.dtype not in _READ for tensor in tensors):
            return None
    try:
        from forgetting.regularizers import kernels
    except ImportError:
        return None
    return kernels


def _launch(kernel: ModuleType, items: Sequence[Held], factor: float, gradients: Sequence[Tensor | None]) -> Tensor:
    """½·factor·Σ A(θ−μ)², and factor·A(θ−μ) added to the gradients that are given."""
    def coded(part: Any) -> Any:
        return kernel.Coded(part.codes, part.scales) if isinstance(part, Compressed) else part

    total = torch.zeros((), device=items[0].weight.device)
    pairs = list(zip(items, gradients, strict=True))
    for some in ([pair for pair in pairs if pair[1] is not None], [pair for pair in pairs if pair[1] is None]):
        if some:
            outputs = [gradient for _, gradient in some]
            total += kernel.quadratic([item.weight for item, _ in some], [coded(item.anchor) for item, _ in some],
                                      [coded(item.importance) for item, _ in some],
                                      None if outputs[0] is None else outputs, factor)
    return total * factor


def _product(items: Sequence[Held]) -> tuple[list[Tensor], list[Tensor]]:
    """θ−μ and A(θ−μ)."""
    anchors: list[Any] = [item.anchor for item in items]
    importances: list[Any] = [item.importance for item in items]
    weights = [item.weight.detach() for item in items]
    exact = [weight.to(item.dtype) if weight.dtype == anchor.dtype != item.dtype else weight
             for weight, anchor, item in zip(weights, anchors, items, strict=True)]
    delta = torch._foreach_sub(exact, anchors)
    return list(delta), list(torch._foreach_mul(delta, importances))


def _groups(items: Sequence[Held]) -> Iterator[list[Held]]:
    """Parameters, so many together that their elements are not too many."""
    group: list[Held] = []
    size = 0
    for item in items:
        group.append(item)
        size += item.weight.numel()
        if size >= _GROUP:
            yield group
            group, size = [], 0
    if group:
        yield group
