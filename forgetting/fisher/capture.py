"""Sees every use of a parameter in one forward pass, and the gradient that comes back to it.

Interception stands at torch's functions, not at modules, so that functional code, tied weights and shared modules
need no special case. A weight that a rule knows enters its function detached: autograd then carries gradients of
activations only, and the per-example weight gradients are squared as they pass by, never stored.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from forgetting.fisher.batches import tensors, transform
from forgetting.fisher.rules import Call, Rule, Separable

_COMPOSITE = frozenset((functional.multi_head_attention_forward,))
_ASKS = ("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic")
_SELECTING = frozenset((
    "__getitem__", "__get__", "transpose", "t", "permute", "view", "reshape", "flatten", "unflatten", "unsqueeze",
    "squeeze", "chunk", "split", "unbind", "select", "narrow", "movedim", "swapaxes", "contiguous", "clone", "expand",
    "to", "float", "cat", "stack", "index_select", "embedding", "roll", "flip", "unsafe_chunk", "tensor_split",
))


@dataclass(frozen=True, eq=False)
class Operand:
    """A tensor made of parameters alone: a parameter, or a function of some (a slice, a looked-up position).

    ``selects``: its elements are elements of the parameters, only moved.
    """

    tensor: Tensor
    names: tuple[str, ...]
    selects: bool
    version: int

    @classmethod
    def of(cls, tensor: Tensor, names: tuple[str, ...], selects: bool = True) -> Operand:
        return cls(tensor, names, selects, tensor._version)


@dataclass(frozen=True)
class Layout:
    """Where a tensor holds the examples: the dimension, whether they are the slower part of it, and whether that
    dimension holds nothing else."""

    dimension: int
    major: bool
    alone: bool = False

    def fits(self, shape: torch.Size, examples: int) -> bool:
        """Whether a tensor of this shape can hold that many examples so."""
        if len(shape) <= self.dimension:
            return False
        size = shape[self.dimension]
        return size == examples if self.alone else size % examples == 0

    def examples_first(self, tensor: Tensor, examples: int) -> Tensor:
        """[examples, repeats, …]."""
        if self.dimension == 0 and tensor.shape[0] == examples:
            return tensor.unsqueeze(1)
        moved, repeats = tensor.movedim(self.dimension, 0), tensor.shape[self.dimension] // examples
        if self.major:
            return moved.unflatten(0, (examples, repeats))
        return moved.unflatten(0, (repeats, examples)).transpose(0, 1)


@dataclass(frozen=True)
class Step:
    """What the probe found a call with parameters to be: a use by examples, a function of parameters alone, or
    neither (the fallback's)."""

    function: Any
    names: tuple[tuple[str, ...], ...]
    kind: str  # "use", "derived", "opaque"
    rule: Rule | None = None
    layout: Layout | None = None
    layouts: Mapping[str, Layout] = field(default_factory=dict)


@dataclass(eq=False)
class Use:
    """One call by examples of a torch function that received parameters."""

    rule: Rule
    call: Call
    slots: dict[str, Operand]
    sources: dict[str, Tensor]
    versions: dict[str, int]
    step: Step

    def changed(self) -> bool:
        """Whether what the gradient needs was overwritten after this use."""
        return (any(self.sources[key]._version != version for key, version in self.versions.items())
                or any(operand.tensor._version != operand.version for operand in self.slots.values()))

    def by_examples(self, gradient: Tensor, examples: int) -> tuple[dict[str, Tensor], Tensor]:
        """The sources and the gradient at the output, [examples, repeats, …] each."""
        return self.split(examples), self.gradient(gradient, examples)

    def gradient(self, gradient: Tensor, examples: int) -> Tensor:
        """The gradient at the output, [examples, repeats, …]."""
        assert self.step.layout is not None
        return self.step.layout.examples_first(gradient, examples)

    def split(self, examples: int) -> dict[str, Tensor]:
        """The sources, [examples, repeats, …]."""
        return {key: self.step.layouts[key].examples_first(source, examples)
                for key, source in self.sources.items() if key in self.step.layouts}

    def outer(self, sources: Mapping[str, Tensor]) -> bool:
        """Whether an example's gradient is a single outer product."""
        return isinstance(self.rule, Separable) and self.rule.separates(sources)

    def release(self) -> None:
        """Let go of what the call was given, as a backward pass does."""
        self.sources.clear()
        self.call.clear()


class Diverged(Exception):
    """The forward pass took another way than the probe's."""


class Watch(TorchFunctionMode):
    """Meets every torch function."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _COMPOSITE:
            with self:
                return opened(func)(*args, **kwargs)
        return self.meet(func, args, kwargs)

    def meet(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What happens at a call."""
        return func(*args, **kwargs)


class Tracked(Watch):
    """Knows which tensors are parameters, or made of parameters alone."""

    def __init__(self, parameters: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.operands = {id(value): Operand.of(value, (name,)) for name, value in parameters.items()}

    def operand(self, tensor: Any) -> Operand | None:
        """What a tensor is made of; None once it was changed in place, for then it may hold more."""
        operand = self.operands.get(id(tensor))
        return operand if operand is not None and operand.version == tensor._version else None

    def found(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Operand]:
        """The operands among the arguments, in order."""
        found: list[Operand] = []
        for value in (*args, *kwargs.values()) if kwargs else args:
            if isinstance(value, Tensor):
                operand = self.operand(value)
                if operand is not None:
                    found.append(operand)
            elif isinstance(value, (tuple, list)):
                found += self.found(tuple(value), {})
        return found

    def detached(self, value: Any) -> Any:
        """An argument without the graph of what is made of parameters alone."""
        if isinstance(value, Tensor):
            return value.detach() if self.operand(value) is not None else value
        return transform(value, self.detached) if isinstance(value, (tuple, list)) else value

    def derive(self, func: Any, operands: Sequence[Operand], output: Any) -> None:
        """Note that an output is made of parameters alone."""
        names = tuple(dict.fromkeys(name for operand in operands for name in operand.names))
        selects = getattr(func, "__name__", "") in _SELECTING and all(operand.selects for operand in operands)
        for tensor in tensors(output):
            if tensor.requires_grad and self.operand(tensor) is None:
                self.operands[id(tensor)] = Operand.of(tensor, names, selects)


class Capture(Tracked):
    """Follows a plan through one forward pass: detaches the weights at their uses and hands over what comes back.

    Args:
        parameters: which to look for.
        plan: what the probe found, a step a call.
        examples: in the batch.
        receive: called in the backward pass with a use and the gradient at its output; without it the outputs are
            kept in ``outputs``.

    Raises:
        Diverged: where a call is not the plan's.
    """

    def __init__(self, parameters: Mapping[str, Tensor], plan: Sequence[Step], examples: int,
                 receive: Callable[[Use, Tensor], None] | None = None) -> None:
        super().__init__(parameters)
        self.plan = plan
        self._next = 0
        self._examples = examples
        self._receive = receive
        self.uses: list[Use] = []
        self.outputs: list[Tensor] = []
        self.root = torch.zeros((), requires_grad=True)

    def meet(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        operands = self.found(args, kwargs) if torch.is_grad_enabled() else []
        if not operands:
            return func(*args, **kwargs)
        step = self.plan[self._next] if self._next < len(self.plan) else None
        if step is None or step.function != func or step.names != tuple(operand.names for operand in operands):
            output = func(*args, **kwargs)
            if matters(func, output):
                raise Diverged
            return output
        self._next += 1
        if step.kind == "use":
            return self._use(step, func, args, kwargs)
        output = func(*args, **kwargs)
        if step.kind == "derived":
            self.derive(func, operands, output)
        return output

    def finish(self) -> None:
        """Raise where the plan had more."""
        if self._next < len(self.plan):
            raise Diverged

    def _use(self, step: Step, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        assert step.rule is not None
        assert step.layout is not None
        call = step.rule.bind(func, args, kwargs)
        slots = {key: operand for key, value in call.items()
                 if isinstance(value, Tensor) and (operand := self.operand(value)) is not None}
        versions = {key: call[key]._version for key in step.rule.needs(call, slots)}
        output: Tensor = func(*map(self.detached, args),
                              **{key: self.detached(value) for key, value in kwargs.items()})
        call.update(dimension=step.layout.dimension, layouts=step.layouts)
        sources = {key: step.rule.operand(call, key, output).detach() for key in versions}
        layouts = {key: step.layouts[key] for key in sources if key in step.layouts}
        if not (step.layout.fits(output.shape, self._examples)
                and all(layout.fits(sources[key].shape, self._examples) for key, layout in layouts.items())):
            raise Diverged
        use = Use(step.rule, call, slots, sources, versions, step)
        self.uses.append(use)
        receive = self._receive
        if receive is None:
            self.outputs.append(output.detach().clone())
            return output
        if not output.requires_grad:
            output = _Rooted.apply(self.root, output.clone() if output._is_view() else output)
        output.register_hook(lambda gradient: receive(use, gradient))
        return output


class _Rooted(torch.autograd.Function):
    """Makes a gradient come back to an output that nothing before it needs one for, without a copy."""

    @staticmethod
    def forward(ctx: Any, _root: Tensor, output: Tensor) -> Tensor:
        ctx.mark_dirty(output)
        return output

    @staticmethod
    def backward(_ctx: Any, _gradient: Tensor) -> tuple[None, None]:
        return None, None


@cache
def opened(function: Any) -> Any:
    """A copy of a composite function that does not hand itself over whole, so that what it calls is seen."""
    blind = {name: lambda *_: False for name in _ASKS}
    return types.FunctionType(function.__code__, {**function.__globals__, **blind}, function.__name__,
                              function.__defaults__, function.__closure__)


def matters(func: Any, output: Any) -> bool:
    """Whether a call can carry what is learned on; a shape or a dtype that is read does not."""
    return getattr(func, "__name__", "") == "__setitem__" or next(tensors(output), None) is not None
