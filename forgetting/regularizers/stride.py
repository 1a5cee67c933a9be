"""What a path integral reads at one step of an optimizer: before it, the task's gradient; after it, how far it went."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from forgetting.curvature.compressed import dense, flat
from forgetting.parameters import Parameters, named
from forgetting.regularizers import fused
from forgetting.regularizers.blocks import CACHE_BLOCK, held
from forgetting.regularizers.steps import Step, optimized

if TYPE_CHECKING:
    from forgetting.regularizers.path import PathRegularizer


class Stride:
    """One attachment: what was read before the optimizer's present step, until the step has ended.

    Args:
        owner: whose path it is.
        model: whose weights move.
    """

    def __init__(self, owner: PathRegularizer, model: nn.Module) -> None:
        self._owner, self._model = owner, model
        self._entries = owner._entries
        self._live: Parameters = {}
        self._weights: list[Tensor] = []
        self._gradients: list[Tensor] = []

    def listen(self, step: Step) -> None:
        """Stage "listen": copy the weights and the task's gradients."""
        owner = self._owner
        entered, self._entries = owner._entries > self._entries, owner._entries
        self._live = {}
        if step.skipped is not None and step.skipped.item() > 0:
            return
        moved = optimized(step.optimizer)
        found = named(self._model, owner.parameters, trainable=False)
        live = {name: weight for name, weight in found.items()
                if id(weight) in moved and weight.requires_grad and weight.grad is not None}
        if not live:
            return
        self._make_room(list(live.values()))
        torch._foreach_copy_(self._weights, list(live.values()))
        torch._foreach_copy_(self._gradients, [_whole(weight.grad) for weight in live.values()])
        if step.scale is not None:
            for gradient in self._gradients:
                gradient.div_(step.scale.to(gradient.device))
        if entered:
            self._take_out(live)
        owner._begin(list(live), self._weights)
        self._live = live

    def finish(self, step: Step) -> None:
        """Stage "finish": see where the step ended."""
        live, self._live = self._live, {}
        if live:
            self._owner._add(live, self._gradients, self._weights)

    def _take_out(self, live: Parameters) -> None:
        """Subtract the penalty's own gradient."""
        reaching = self._owner._reaching(self._model)
        if reaching is None:
            return
        state, covered = reaching
        buffers = {name: buffer for name, buffer in zip(live, self._gradients, strict=True) if name in covered}
        items = {name: item for name, item in zip(covered, held(state, covered) or (), strict=False)
                 if name in buffers and item.fits(buffers[name]) and item.dtype == buffers[name].dtype}
        fused.add(list(items.values()), -self._owner.strength, None, [buffers[name] for name in items])
        if len(items) < len(buffers):
            pull = self._owner.pull(self._model)
            for name in buffers.keys() - items.keys():
                buffers[name].sub_(pull[name])

    def _make_room(self, weights: Sequence[Tensor]) -> None:
        """Two buffers a weight, in float32 or better; those of the step before where they fit."""
        fit = len(weights) == len(self._weights) and all(
            room.shape == weight.shape and room.device == weight.device and room.dtype == precise(weight)
            for room, weight in zip(self._weights, weights, strict=True))
        if not fit:
            self._weights = [torch.empty_like(weight, dtype=precise(weight)) for weight in weights]
            self._gradients = [torch.empty_like(weight) for weight in self._weights]


def accumulate(totals: Sequence[Tensor], squares: Sequence[Tensor] | None, gradients: Sequence[Tensor],
               starts: Sequence[Tensor], ends: Sequence[Tensor]) -> None:
    """totals += gradients·(starts − ends), squares += gradients²; starts are used up.

    On a CPU a block that stays in the cache at a time.
    """
    rest = []
    for number, parts in enumerate(zip(totals, gradients, starts, ends, *([squares] if squares else []), strict=True)):
        if not _long(parts):
            rest.append(number)
            continue
        lines = [flat(part.detach()) for part in parts]
        for place in range(0, len(lines[0]), CACHE_BLOCK):
            total, gradient, start, end, *square = (line[place : place + CACHE_BLOCK] for line in lines)
            total.addcmul_(gradient, start - end)
            for sum_of_squares in square:
                sum_of_squares.addcmul_(gradient, gradient)
    if rest:
        backwards, slopes = [starts[number] for number in rest], [gradients[number] for number in rest]
        torch._foreach_sub_(backwards, [ends[number] for number in rest])
        torch._foreach_addcmul_([totals[number] for number in rest], slopes, backwards)
        if squares:
            torch._foreach_addcmul_([squares[number] for number in rest], slopes, slopes)


def precise(weight: Tensor) -> torch.dtype:
    """A weight's dtype, float32 where that has fewer bits."""
    return torch.promote_types(weight.dtype, torch.float32)


def _long(parts: Sequence[Tensor]) -> bool:
    """Whether these lie on a CPU, longer than a block, in one order of memory without gaps."""
    first = parts[0]
    return (first.device.type == "cpu" and first.numel() > CACHE_BLOCK and type(first) is Tensor
            and all(part.stride() == first.stride() and dense(part) for part in parts))


def _whole(gradient: Tensor | None) -> Tensor:
    """A gradient without gaps."""
    assert gradient is not None
    return gradient if gradient.layout == torch.strided else gradient.to_dense()
