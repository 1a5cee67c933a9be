"""½·λ·Σ A(θ−μ)² and λ·A(θ−μ) in one pass, which reads θ, μ and A from memory once.

What lies between, the difference and an unpacked importance, is written to a scratch that stays in the cache. On a
GPU, whole lists of tensors go to the kernels of :mod:`forgetting.regularizers.grouped` instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from forgetting.curvature.compressed import flat
from forgetting.regularizers import grouped
from forgetting.regularizers.blocks import Block, Held, blocks

_SMALL = 2**20  # weights, whose differences stay in the cache

def evaluate(
    items: Sequence[Held], factor: float, dtypes: Sequence[torch.dtype | None]
) -> tuple[Tensor, list[Tensor | None]]:
    """½·factor·Σ A(θ−μ)² and factor·A(θ−μ), laid out as the anchor, where a dtype is given for it."""
    if grouped.possible(items):
        return grouped.evaluate(items, factor, dtypes)
    gradients = [item.blank(dtype) if dtype is not None else None for item, dtype in zip(items, dtypes, strict=True)]
    outputs = [flat(gradient) if gradient is not None else None for gradient in gradients]
    exact, parts = 0.0, []
    for block in blocks(items):
        output = outputs[block.which]
        target = output[block.place] if output is not None else None
        product = target if target is not None and target.dtype == block.delta.dtype else block.product
        part = torch.dot(block.delta, _multiply(block, factor, product))
        if part.device.type == "cpu":
            exact += part.item()
        else:
            parts.append(part)
        if target is not None and target is not product:
            target.copy_(product)
    device = items[0].weight.device if items else torch.device("cpu")
    if parts:  # elsewhere than on the CPU nothing waits for a value
        return torch.stack([part.to(device) for part in parts]).sum().add_(exact).mul_(0.5), gradients
    return torch.tensor(0.5 * exact, dtype=torch.float64, device=device), gradients


def add(items: Sequence[Held], factor: float, scale: Tensor | None, gradients: Sequence[Tensor]) -> None:
    """Add scale·factor·A(θ−μ) to gradients that are laid out as the anchors."""
    if scale is not None and scale.device.type == "cpu":
        factor, scale = factor * scale.item(), None
    plain = _small(items, gradients) if scale is None else None
    if plain:
        weights, anchors, importances = zip(*plain, strict=True)
        torch._foreach_addcmul_(list(gradients), torch._foreach_sub(weights, anchors), importances, value=factor)
        return
    if scale is None and grouped.possible(items):
        grouped.add(items, factor, gradients)
        return
    outputs = [flat(gradient) for gradient in gradients]
    for block in blocks(items):
        target, known = outputs[block.which][block.place], block.importance
        if scale is None and not isinstance(known, float) and target.dtype == known.dtype:
            target.addcmul_(block.delta, known, value=factor)
            continue
        product = _multiply(block, factor, block.product)
        target.add_(product if scale is None else product.mul_(scale.to(product.device)))


def retract(items: Sequence[Held], factors: Sequence[float | Tensor], skipped: Tensor | None) -> None:
    """θ ← θ − aA/(1+aA)·(θ−μ), computed in float32 or better; nothing where ``skipped`` is above 0."""
    for item, factor in zip(items, factors, strict=True):
        if item.fits(item.weight):
            _retract(item, factor, skipped)
        else:
            copy = item.blank(item.weight.dtype).copy_(item.weight)
            _retract(replace(item, weight=copy), factor, skipped)
            item.weight.copy_(copy)


def _small(items: Sequence[Held], gradients: Sequence[Tensor]) -> list[tuple[Tensor, Tensor, Tensor]]:
    """θ, μ and A of each, where all is plain, of one dtype, on the CPU, and so little that a call a block would cost
    more; else nothing.
    """
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    if sum(gradient.numel() for gradient in gradients) > _SMALL or any(each.element_size() < 4 for each in gradients):
        return []  # a difference of numbers in 16 bits is taken in 32
    for item, gradient in zip(items, gradients, strict=True):
        weight, anchor, importance = item.weight, item.anchor, item.importance
        if not (isinstance(anchor, Tensor) and isinstance(importance, Tensor) and weight.is_cpu and anchor.is_cpu
                and weight.dtype == anchor.dtype == importance.dtype == gradient.dtype == gradients[0].dtype):
            return []
        found.append((weight, anchor, importance))
    return found


def _multiply(block: Block, factor: float, out: Tensor) -> Tensor:
    """factor·A(θ−μ) of a block."""
    if isinstance(block.importance, float):
        return torch.mul(block.delta, block.importance * factor, out=out)
    # With a number to add to, two products take one pass.
    return torch.addcmul(out.new_zeros(()), block.delta, block.importance, value=factor, out=out)


def _retract(item: Held, factor: float | Tensor, skipped: Tensor | None) -> None:
    """The proximal step of one parameter that is laid out as its anchor."""
    largest = torch.finfo(item.dtype).max
    a = factor.clamp(max=largest) if isinstance(factor, Tensor) else min(factor, largest)
    for block in blocks([item]):
        known, share = block.importance, block.product
        if not isinstance(known, float):
            share.copy_(known)
        else:
            share.fill_(min(known, largest))
        # aA/(1+aA) = 1/(1+1/aA), which is 0 where aA is and needs no second scratch.
        share.mul_(a).clamp_(max=largest).reciprocal_().add_(1)
        move = block.delta.div_(share)
        if skipped is not None:
            move.masked_fill_(skipped.to(move.device) > 0, 0)
        block.weight.copy_(torch.sub(block.weight, move, out=move))
