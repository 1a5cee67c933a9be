"""Any other use of a parameter: the gradient of one example at a time, by ``vmap(grad)`` or by a loop. Slow, right."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import torch
from torch import Tensor

from forgetting.fisher.batches import Batch, choose, count, tensors, transform
from forgetting.fisher.rules.base import add_powers, exhausted, tile, widened
from forgetting.parameters import Parameters

Outputs = Callable[[Mapping[str, Tensor], Batch], Tensor]


def by_vmap(
    outputs: Outputs, parameters: Parameters, batch: Batch, cotangents: Sequence[Tensor], memory: int, power: int,
    shared: Collection[int] = (),
) -> Parameters:
    """Σ over examples and cotangents of |Jᵀv|^power, all examples of a tile at once."""
    size = count(batch)
    live = {name: parameter.detach() for name, parameter in parameters.items()}
    mapped = [number not in shared and tensor.ndim > 0 and len(tensor) == size
              for number, tensor in enumerate(tensors(batch))]

    def score(values: Mapping[str, Tensor], leaves: tuple[Tensor, ...], cotangent: Tensor) -> Tensor:
        alone = iter([leaf.unsqueeze(0) if own else leaf for leaf, own in zip(leaves, mapped, strict=True)])
        return (outputs(values, transform(batch, lambda _: next(alone))) * cotangent.unsqueeze(0)).sum()

    over = tuple(0 if own else None for own in mapped)
    gradients = torch.func.vmap(torch.func.grad(score), in_dims=(None, over, 0), randomness="error")
    sums = {name: torch.zeros_like(widened(value)) for name, value in live.items()}
    step = tile(memory, sum(value.numel() for value in sums.values()), next(iter(sums.values())))
    start = 0
    while start < size:
        part = slice(start, min(size, start + step))
        leaves = tuple(tensor[part] if own else tensor for tensor, own in zip(tensors(batch), mapped, strict=True))
        added = {name: torch.zeros_like(value) for name, value in sums.items()}
        try:
            for cotangent in cotangents:
                for name, gradient in gradients(live, leaves, cotangent[part]).items():
                    add_powers(added[name], widened(gradient), power)
        except RuntimeError as error:
            if step == 1 or not exhausted(error):
                raise
            step = max(1, step // 2)
            continue
        for name, value in added.items():
            sums[name] += value
        start = part.stop
    return sums


def by_loop(
    run: Callable[[Batch], Tensor], parameters: Parameters, batch: Batch, cotangents: Sequence[Tensor], power: int,
    shared: Collection[int] = (),
) -> Parameters:
    """The same sum, one example and one backward at a time, through the model as it is: for what ``vmap`` cannot trace,
    or reaches its parameters by a way of its own."""
    sums = {name: torch.zeros_like(widened(value.detach())) for name, value in parameters.items()}
    for example in range(count(batch)):
        output = run(choose(batch, [example], shared))
        for k, cotangent in enumerate(cotangents):
            gradients = torch.autograd.grad(
                output,
                list(parameters.values()),
                cotangent[example : example + 1],
                retain_graph=k + 1 < len(cotangents),
                allow_unused=True,
            )
            for name, gradient in zip(parameters, gradients, strict=True):
                if gradient is not None:
                    add_powers(sums[name], widened(gradient).unsqueeze(0), power)
    return sums


def subtract(
    run: Callable[[Batch], Tensor], parameters: Parameters, batch: Batch, cotangent: Tensor, power: int,
    shared: Collection[int], sums: Parameters,
) -> None:
    """Take from the sums what autograd gives, one example at a time: one gradient in memory, where a comparison of two
    sums needs three."""
    for example in range(count(batch)):
        output = run(choose(batch, [example], shared))
        gradients = torch.autograd.grad(output, list(parameters.values()), cotangent[example : example + 1],
                                        allow_unused=True)
        for name, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None and power == 2:
                sums[name].addcmul_(widened(gradient), widened(gradient), value=-1)
            elif gradient is not None:
                sums[name].sub_(widened(gradient).abs())
