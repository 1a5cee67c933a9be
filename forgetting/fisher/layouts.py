"""Finds what each call with parameters is, and where it holds the examples: by running few of them and looking."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from forgetting.fisher.agreement import equal, independent, largest, tolerance
from forgetting.fisher.batches import Batch, choose, count, tensors
from forgetting.fisher.capture import Capture, Diverged, Layout, Step, Tracked, Watch, matters
from forgetting.fisher.deciding import Deciding, decides
from forgetting.fisher.rules import BY_FUNCTION, LOCAL, Call, Rule
from forgetting.fisher.rules.base import in_place

_ANY = Layout(0, True)

Shapes = list[torch.Size]
Record = list[tuple[Any, Shapes, Shapes]]
Run = Callable[[Batch], Tensor]
Pick = Callable[[Sequence[int]], Batch]


@dataclass(frozen=True)
class Plan:
    """What the probe found: a step a call with parameters; None where the calls depend on the order of the examples.

    ``decided``: the data decides shapes, so that the plan holds for this batch alone. ``overwrites``: the model
    changes its inputs in place. ``outputs``: of the ``indices`` that were probed, to compare with the whole batch's.
    """

    steps: tuple[Step, ...] | None
    decided: bool
    overwrites: bool
    indices: tuple[int, ...]
    outputs: Tensor

    def serves(self, batch: Batch) -> bool:
        """Whether the plan may be tried on another batch."""
        return not self.decided and (self.indices[0] != self.indices[-1]) == (count(batch) > 1)


def probe(run: Run, parameters: Mapping[str, Tensor], batch: Batch, shared: Collection[int] = ()) -> Plan:
    """Run the first and the last example of a batch, the other way round, with the first once more, and alone.

    What grew holds the examples: with the same two examples in all three runs, whatever their data decides is decided
    alike. Where the two cannot tell the order of merged examples, or where the data decides shapes (packed tokens,
    mixtures of experts), the whole batch is run instead.

    Raises:
        Mixes: where their outputs disagree.
    """
    examples = count(batch)

    def pick(indices: Sequence[int]) -> Batch:
        return choose(batch, indices, shared)

    plan, certain = _probe(run, parameters, pick, (0, examples - 1) if examples > 1 else (0, 0))
    if examples > 2 and (plan.decided or not certain):
        plan, _ = _probe(run, parameters, pick, tuple(range(examples)))
    return plan


def _probe(run: Run, parameters: Mapping[str, Tensor], pick: Pick, indices: tuple[int, ...]) -> tuple[Plan, bool]:
    more, given, reversed_ = map(pick, (indices + indices[:1], indices, indices[::-1]))
    with torch.enable_grad():
        with Deciding() as deciding, _Recorder() as record:
            longer = run(more).detach()
        versions = [tensor._version for tensor in tensors(given)]
        with _Planner(parameters, record.calls) as planner:
            outputs = run(given).detach()
        overwrites = versions != [tensor._version for tensor in tensors(given)]
        decided = record.decided or deciding.decided
        turned = Capture(parameters, planner.steps, 1)
        try:
            with turned:
                backwards = run(reversed_).detach()
            turned.finish()
            singles = _alone(run, parameters, planner.steps, pick, indices) if decided else []
        except Diverged:
            return Plan(None, True, True, indices, outputs), True
    ends = [0, len(indices) - 1]
    with torch.no_grad():
        alone = torch.cat([run(pick([indices[end]])) for end in ends])
    independent(outputs[ends], alone)
    independent(torch.cat([outputs, outputs[:1]]), longer)
    independent(outputs, backwards.flip(0))
    steps, certain = _settled(planner, turned, len(indices), same=indices[0] == indices[-1])
    for single in singles:
        steps = tuple(_owned(steps, turned, single, len(indices)))
    return Plan(steps, decided, overwrites, indices, outputs), certain


def _alone(run: Run, parameters: Mapping[str, Tensor], steps: Sequence[Step], pick: Pick,
           indices: tuple[int, ...]) -> list[Capture]:
    """Each example's own pass: where the data decides shapes, only that tells how much of a tensor is whose."""
    found = []
    for index in indices:
        with Capture(parameters, steps, 1) as single:
            run(pick([index]))
        single.finish()
        found.append(single)
    return found


def _owned(steps: Sequence[Step], all_: Capture, one: Capture, examples: int) -> Iterator[Step]:
    """The steps, a use opaque of which this example alone holds more or less than its share."""
    uses = iter(zip(all_.outputs, one.outputs, strict=True))
    for step, planned in zip(steps, all_.plan, strict=True):
        if planned.kind == "use":
            many, own = next(uses)
            layout = step.layout
            if layout is not None and own.shape[layout.dimension] * examples != many.shape[layout.dimension]:
                step = replace(step, kind="opaque")
        yield step


class _Recorder(Watch):
    """In the run with one example more, notes the shapes of what every call on what is learned receives and gives."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Record = []
        self.decided = False

    def meet(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self.decided = self.decided or decides(func, args)
        given = [tensor.shape for tensor in tensors((args, kwargs))]
        learning = _learning(args, kwargs)
        output = func(*args, **kwargs)
        if learning:
            self.calls.append((func, given, [tensor.shape for tensor in tensors(output)]))
        return output


def _learning(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a call depends on what is learned."""
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors((args, kwargs)))


@dataclass(eq=False)
class _Draft:
    """A use as the planner saw it, before its layouts are known."""

    call: Call
    slots: tuple[str, ...]
    sources: dict[str, tuple[torch.Size, Tensor]]
    shape: torch.Size
    output: Tensor


class _Planner(Tracked):
    """Tells uses from functions of parameters alone: with more examples a use's output grows."""

    def __init__(self, parameters: Mapping[str, Tensor], record: Record) -> None:
        super().__init__(parameters)
        self._record = record
        self._next = 0
        self.steps: list[Step] = []
        self.drafts: list[_Draft] = []

    def meet(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not _learning(args, kwargs):
            return func(*args, **kwargs)
        known = self._record[self._next] if self._next < len(self._record) else (None, [], [])
        self._next += 1
        operands = self.found(args, kwargs)
        if not operands:
            return func(*args, **kwargs)
        given = list(tensors((args, kwargs)))
        mine = [self.operand(tensor) is not None for tensor in given]
        output = func(*args, **kwargs)
        if not matters(func, output):
            return output
        kind, rule = "opaque", None
        results = list(tensors(output))
        if known[0] != func or len(known[2]) != len(results):
            pass
        elif [result.shape for result in results] == known[2]:
            others = (tensor for tensor, own in zip(given, mine, strict=True) if not own)
            kind = "opaque" if any(tensor.requires_grad for tensor in others) else "derived"
        elif isinstance(output, Tensor):
            rule = self._draft(func, args, kwargs, given, known, output, {id(one.tensor) for one in operands})
            kind = "use" if rule is not None else "opaque"
        self.steps.append(Step(func, tuple(operand.names for operand in operands), kind, rule, _ANY))
        if kind == "derived":
            self.derive(func, operands, output)
        return output

    def _draft(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], given: list[Tensor],
               known: tuple[Any, Shapes, Shapes], output: Tensor, mine: set[int]) -> Rule | None:
        """The rule that serves a use, whose values are noted; None where no rule does."""
        if len(known[1]) != len(given) or (in_place(func) and output._is_view()):
            return None  # what a view receives in place, its base carries on by another way
        for rule in dict.fromkeys((BY_FUNCTION.get(func, LOCAL), LOCAL)):
            call = rule.bind(func, args, kwargs)
            slots = tuple(key for key, value in call.items() if id(value) in mine)
            fits = {id(call[key]) for key in slots} == mine and (rule.slots is None or set(slots) <= set(rule.slots))
            if func in BY_FUNCTION and rule is LOCAL and not _elementary(func):
                return None
            if fits and rule.supports(call, slots):
                shapes = {id(tensor): shape for tensor, shape in zip(given, known[1], strict=True)}
                sources = {}
                for key in rule.needs(call, slots):
                    value = rule.operand(call, key, output)
                    sources[key] = (shapes[id(value)] if id(value) in shapes else known[2][0], value.detach())
                self.drafts.append(_Draft(call, slots, sources, known[2][0], output.detach().clone()))
                return rule
        return None


def _elementary(func: Any) -> bool:
    """Whether a function that has a rule may go to the local one where the rule does not fit: not so where the
    function does more than its arguments say (norms by batch statistics, look-ups that rescale)."""
    return BY_FUNCTION[func].name in ("add", "sub", "mul", "addmm", "matmul", "linear")


def _settled(planner: _Planner, turned: Capture, examples: int, *, same: bool) -> tuple[tuple[Step, ...], bool]:
    """The steps with their layouts, a use without one turned opaque; and whether none was ambiguous."""
    steps, certain = [], True
    pairs = iter(zip(planner.drafts, turned.uses, turned.outputs, strict=True))
    for step in planner.steps:
        if step.kind == "use":
            assert step.rule is not None
            draft, use, output = next(pairs)
            layout, sure = _layout(draft.shape, draft.output, output, examples, same)
            certain &= sure
            layouts = {}
            for key, (shape, value) in draft.sources.items():
                found, sure = _layout(shape, value, use.sources[key], examples, same)
                certain &= sure
                if found is not None:
                    layouts[key] = found
                elif value.shape != shape:
                    layout = None
            step = replace(step, layout=layout, layouts=layouts)
            if not _fits(step, draft, examples):
                step = replace(step, kind="opaque")
        steps.append(step)
    return tuple(steps), certain


def _fits(step: Step, draft: _Draft, examples: int) -> bool:
    """Whether a use's rule can work with the layouts that were found."""
    rule, layout = step.rule, step.layout
    if rule is None or layout is None:
        return False
    if rule is LOCAL:
        return _repeats(step, draft, examples)
    if any(key not in step.layouts for key in draft.sources):
        return False
    return all(found == layout for found in step.layouts.values()) and layout.dimension < rule.leading(draft.call)


def _repeats(step: Step, draft: _Draft, examples: int) -> bool:
    """Whether the call, repeated for an example alone, gives its outputs: nothing else is known of the function."""
    assert step.layout is not None
    call = {**draft.call, "layouts": step.layouts, "dimension": step.layout.dimension}
    whole = step.layout.examples_first(draft.output, examples)
    sources = {key: step.layouts[key].examples_first(value, examples)
               for key, (_, value) in draft.sources.items() if key in step.layouts}
    try:
        for n in (0, examples - 1):
            again = LOCAL.repeated(call, {key: source[n] for key, source in sources.items()})
            independent(whole[n].movedim(0, step.layout.dimension), again.detach())
    except (RuntimeError, ValueError, TypeError, IndexError):
        return False
    return True


def _layout(more: torch.Size, many: Tensor, turned: Tensor, examples: int, same: bool) -> tuple[Layout | None, bool]:
    """Where a tensor holds the examples, and whether that is certain; None also where it holds none."""
    if len(more) != many.ndim or many.shape != turned.shape:
        return None, True
    grown = [d for d in range(many.ndim) if more[d] != many.shape[d]]
    if len(grown) != 1 or more[grown[0]] * examples != many.shape[grown[0]] * (examples + 1):
        return None, True
    dimension = grown[0]
    repeats = many.shape[dimension] // examples
    if same:
        return Layout(dimension, True, repeats == 1), True
    if repeats == 1:
        turns = equal(many.flip(dimension), turned, tolerance(many) * largest(many))
        return (Layout(dimension, True, True) if turns else None), True
    orders = list(_orders(many, turned, dimension, examples, repeats))
    return (Layout(dimension, orders[0]) if len(orders) == 1 else None), len(orders) == 1


def _orders(many: Tensor, turned: Tensor, dimension: int, examples: int, repeats: int) -> Iterator[bool]:
    """Which orders (example slower, example faster) explain what turning the batch round did."""
    allowed = tolerance(many) * largest(many)
    for major, shape, flipped in ((True, (examples, repeats), 0), (False, (repeats, examples), 1)):
        expected = many.unflatten(dimension, shape).flip(dimension + flipped).flatten(dimension, dimension + 1)
        if equal(expected, turned, allowed):
            yield major
