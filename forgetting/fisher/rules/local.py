"""Any other function of examples and parameters: ``vmap(vjp)`` of that one call."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from forgetting.fisher.batches import transform
from forgetting.fisher.rules.base import Call, Rule, Sources, Totals, add_in_tiles, in_place, tile, widened


class Local(Rule):
    """einsum, bilinear, prelu, where, indexing by examples, …: the call is repeated for one example at a time.

    Nothing is known of the function, so the probe must have seen that an example alone gives the same output.
    """

    name = "local"
    signatures = {}
    slots = None

    def bind(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Call:
        """Every tensor among the arguments under a number of its own."""
        call: Call = {"function": function, "arguments": (args, dict(kwargs))}
        transform((args, dict(kwargs)), lambda tensor: call.setdefault(str(len(call) - 2), tensor))
        return call

    def supports(self, call: Call, slots: Collection[str]) -> bool:
        return not in_place(call["function"]) and "out" not in call["arguments"][1]

    def needs(self, call: Call, slots: Collection[str]) -> tuple[str, ...]:
        return tuple(key for key, value in call.items() if isinstance(value, Tensor) and key not in slots)

    def leading(self, call: Call) -> int:
        return 2**31

    def accumulate(self, sources: Sources, gradient: Tensor, call: Call, totals: Totals, power: int,
                   memory: int) -> None:
        for slot, total in totals.items():
            def gradients(part: slice, slot: str = slot) -> Tensor:
                cut = {key: source[part] for key, source in sources.items()}
                return widened(self.gradients(cut, gradient[part], call, slot)).clone()

            add_in_tiles(total, len(gradient), tile(memory, total.numel(), total), gradients, power)

    def add_gradients(self, sources: Sources, gradient: Tensor, call: Call, slot: str, out: Tensor) -> None:
        out.add_(self.gradients(sources, gradient, call, slot))

    def gradients(self, sources: Sources, gradient: Tensor, call: Call, slot: str) -> Tensor:
        """[examples, *the parameter's shape]."""
        keys = list(sources)

        def one(cotangent: Tensor, *slices: Tensor) -> Tensor:
            def output(weight: Tensor) -> Tensor:
                return self.repeated(call, {**dict(zip(keys, slices, strict=True)), slot: weight})

            value, pull, *_ = torch.func.vjp(output, call[slot].detach())
            return pull(cotangent.movedim(0, call["dimension"]).to(value.dtype))[0]

        tensors = [gradient, *sources.values()]
        try:
            return torch.func.vmap(one)(*tensors)
        except (RuntimeError, ValueError):  # vmap has no rule for the operation; what is really wrong the loop raises
            return torch.stack([one(*(tensor[n] for tensor in tensors)) for n in range(len(gradient))])

    def repeated(self, call: Call, values: Mapping[str, Tensor]) -> Tensor:
        """The call with some of its tensors replaced: slices [repeats, …] of one example, or a weight."""
        numbers = iter(range(2**31))
        layouts = call["layouts"]

        def place(tensor: Tensor) -> Tensor:
            key = str(next(numbers))
            if key not in values:
                return tensor
            return values[key].movedim(0, layouts[key].dimension) if key in layouts else values[key]

        args, kwargs = transform(call["arguments"], place)
        return call["function"](*args, **kwargs)
