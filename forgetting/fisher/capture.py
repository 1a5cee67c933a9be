"""Sees every use of a parameter in one forward pass, and the gradient that comes back to it.

Interception stands at torch's functions, not at modules, so that functional code, tied weights and shared modules
need no special case. A weight that a rule knows enters its function detached: autograd then carries gradients of
activations only, and the per-example weight gradients are squared as they pass by, never stored.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from forgetting.fisher.batches import Batch, choose, count
from forgetting.fisher.rules import BY_FUNCTION, Call, Rule

_TOLERANCE = 1e-3
_TOLERANCE_HALF = 5e-2
_DECIDING = frozenset((
    torch.nonzero, Tensor.nonzero, torch.masked_select, Tensor.masked_select, torch.unique, Tensor.unique,
    Tensor.item, Tensor.tolist, Tensor.numpy, Tensor.__int__, Tensor.__index__,
))


@dataclass
class Use:
    """One call of a torch function that received tracked parameters: slot -> name."""

    rule: Rule
    call: Call
    slots: dict[str, str]
    source: Tensor
    version: int

    def changed(self) -> bool:
        """Whether the source was overwritten after this use."""
        return self.call[self.rule.source]._version != self.version


@dataclass(frozen=True)
class Layout:
    """Where a use's source holds the examples: the dimension, and whether they are the slower part of it."""

    dimension: int
    major: bool

    def examples_first(self, tensor: Tensor, examples: int) -> Tensor:
        """[examples, repeats, …]."""
        moved, repeats = tensor.movedim(self.dimension, 0), tensor.shape[self.dimension] // examples
        if self.major:
            return moved.unflatten(0, (examples, repeats))
        return moved.unflatten(0, (repeats, examples)).transpose(0, 1)


class Capture(TorchFunctionMode):
    """Records the uses of ``tracked`` parameters (tensor id -> name) in the forward pass run inside it.

    Args:
        tracked: which parameters to look for.
        receive: called in the backward pass with a use and the gradient at its output.

    ``decided`` says afterwards whether values in the data may have decided a shape.
    """

    def __init__(self, tracked: Mapping[int, str], receive: Callable[[Use, Tensor], None] | None = None) -> None:
        super().__init__()
        self._tracked = tracked
        self._receive = receive
        self.uses: list[Use] = []
        self.decided = False
        self.root = torch.zeros((), requires_grad=True)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        rule = BY_FUNCTION.get(func)
        if rule is None:
            self.decided = self.decided or _decides(func, args)
            return func(*args, **kwargs)
        call = rule.bind(func, args, kwargs)
        slots = {slot: self._tracked[id(call[slot])] for slot in rule.slots if id(call.get(slot)) in self._tracked}
        if not slots or not rule.supports(call):
            return func(*args, **kwargs)
        weights = {id(call[slot]) for slot in slots}
        output = func(
            *(value.detach() if id(value) in weights else value for value in args),
            **{key: value.detach() if id(value) in weights else value for key, value in kwargs.items()},
        )
        source = call[rule.source]
        use = Use(rule, call, slots, source.detach(), source._version)
        self.uses.append(use)
        if self._receive is None or not torch.is_grad_enabled():
            return output
        if not output.requires_grad:
            output = output + self.root.to(output.device, output.dtype)
        receive = self._receive
        output.register_hook(lambda gradient: receive(use, gradient))
        return output


def _decides(func: Any, args: Any) -> bool:
    """Whether the values of a tensor may decide a shape here."""
    if func is Tensor.__getitem__:
        indices = args[1] if isinstance(args[1], tuple) else (args[1],)
        return any(isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8) for index in indices)
    return func in _DECIDING or (func is torch.where and len(args) == 1)


def leaves(output: Tensor) -> dict[int, Tensor]:
    """The leaf tensors that an output depends on, by id."""
    found = {} if output.grad_fn is not None or not output.requires_grad else {id(output): output}
    waiting = [output.grad_fn] if output.grad_fn is not None else []
    seen = set(waiting)
    while waiting:
        node = waiting.pop()
        leaf = getattr(node, "variable", None)
        if leaf is not None:
            found[id(leaf)] = leaf
        for parent, _ in node.next_functions:
            if parent is not None and parent not in seen:
                seen.add(parent)
                waiting.append(parent)
    return found


def repeated(uses: Sequence[Use]) -> set[str]:
    """Parameters that several uses share: their gradients must be summed before the square."""
    counts = Counter(name for use in uses for name in use.slots.values())
    return {name for name, times in counts.items() if times > 1}


class Layouts:
    """Finds where each use holds the examples, by running one and two of them and looking at what grew, and in which
    order, by running the whole batch backwards.

    Also the place where a model is caught that mixes examples: the same example must give the same outputs whatever
    stands beside it. What was found holds for batches of the same shapes, unless the data decides shapes (packed
    tokens, mixtures of experts): then every batch is looked at.
    """

    def __init__(self, run: Callable[[Batch], Tensor], tracked: Mapping[int, str]) -> None:
        self._run = run
        self._tracked = tracked
        self._known: dict[tuple[Any, ...], list[Layout | None]] = {}
        self._separate: set[int] = set()

    def of(self, capture: Capture, batch: Batch, outputs: Tensor) -> list[Layout | None]:
        """One layout a use of this batch's forward pass; None where the examples cannot be told apart for certain."""
        uses = capture.uses
        key = (
            len(outputs),
            *((use.rule.name, tuple(use.slots.values()), tuple(use.source.shape)) for use in uses),
        )
        if capture.decided or key not in self._known:
            self._known[key] = self._probe(uses, batch, outputs.detach())
        return self._known[key]

    def separate(self, batch: Batch, outputs: Tensor) -> None:
        """Raise where the model mixes examples; for models whose uses no rule may look at."""
        if len(outputs) not in self._separate:
            self._runs([], batch, outputs)
            self._separate.add(len(outputs))

    def _trace(self, batch: Batch, indices: Sequence[int]) -> tuple[list[Use], Tensor]:
        with torch.no_grad(), Capture(self._tracked) as capture:
            output = self._run(choose(batch, indices))
        return capture.uses, output

    def _probe(self, uses: Sequence[Use], batch: Batch, outputs: Tensor) -> list[Layout | None]:
        one, two, turned = self._runs(uses, batch, outputs)
        if not len(uses) == len(one) == len(two) == len(turned):
            return [None] * len(uses)
        return [
            _layout(use, a.source, b.source, c.source, count(batch))
            for use, a, b, c in zip(uses, one, two, turned, strict=True)
        ]

    def _runs(self, uses: Sequence[Use], batch: Batch, outputs: Tensor) -> tuple[Sequence[Use], ...]:
        """The uses with one and two examples and with the batch backwards; raises where their outputs disagree."""
        examples = count(batch)
        other = 1 if examples > 1 else 0
        two, both = self._trace(batch, [0, other])
        one, first = self._trace(batch, [0]) if examples > 1 else (uses, outputs)
        _, second = self._trace(batch, [1]) if examples > 1 else (uses, outputs)
        turned, backwards = self._trace(batch, range(examples)[::-1]) if examples > 1 else (uses, outputs)
        alone = torch.cat([first, second])
        self._independent(outputs[[0, other]], alone)
        self._independent(both, alone)
        self._independent(outputs, backwards.flip(0))
        return one, two, turned

    @staticmethod
    def _independent(outputs: Tensor, again: Tensor) -> None:
        scale = float(outputs.abs().max())
        worst = float((outputs - again).abs().max()) if outputs.shape == again.shape else float("inf")
        if worst > _tolerance(outputs) * scale:
            raise ValueError(
                f"the outputs of an example change by {worst:.3g} (largest output {scale:.3g}) with the examples "
                "beside it, even in eval mode: the model mixes examples or draws random numbers, so there is no "
                "gradient of one example; use running statistics or a norm within the example"
            )


def _tolerance(tensor: Tensor) -> float:
    if not tensor.is_floating_point():
        return 0.0
    return _TOLERANCE_HALF if tensor.dtype in (torch.float16, torch.bfloat16) else _TOLERANCE


def _layout(use: Use, one: Tensor, two: Tensor, turned: Tensor, examples: int) -> Layout | None:
    source = use.source
    if not source.ndim == one.ndim == two.ndim or source.shape != turned.shape:
        return None
    grown = [d for d in range(source.ndim) if one.shape[d] != two.shape[d]]
    if len(grown) != 1 or grown[0] >= use.rule.leading(use.call):
        return None
    (dimension,) = grown
    if one.shape[dimension] * 2 != two.shape[dimension] or source.shape[dimension] % examples:
        return None
    repeats = source.shape[dimension] // examples
    fits = list(_fitting(source, turned, dimension, examples))
    return Layout(dimension, fits[0]) if len(fits) == 1 or (fits and 1 in (repeats, examples)) else None


def _fitting(source: Tensor, turned: Tensor, dimension: int, examples: int) -> Iterator[bool]:
    """Which orders (example slower, example faster) explain what turning the batch round did."""
    repeats = source.shape[dimension] // examples
    allowed = _tolerance(source) * float(source.abs().max())
    for major, shape, flipped in ((True, (examples, repeats), 0), (False, (repeats, examples), 1)):
        expected = source.unflatten(dimension, shape).flip(dimension + flipped).flatten(dimension, dimension + 1)
        if float((expected - turned).abs().max()) <= allowed:
            yield major
