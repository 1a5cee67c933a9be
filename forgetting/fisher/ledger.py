"""How the uses of one batch add up to |gradient|^power of every parameter."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from forgetting.fisher.capture import Operand, Use
from forgetting.fisher.rules import Separable, add_powers, tile, widened
from forgetting.fisher.rules.base import exhausted
from forgetting.fisher.tied import Tied
from forgetting.parameters import Parameters

_BUFFER = 2**22  # bytes: summed gradients of a few examples that stay near the processor


class Observer(Protocol):
    """Takes some uses away from the diagonal, as factors do."""

    def takes(self, use: Use, slot: str, name: str) -> bool:
        """Whether this slot of this use is the observer's."""

    def see(self, use: Use, sources: Mapping[str, Tensor], gradient: Tensor, slots: Mapping[str, str]) -> None:
        """One use's gradient of one cotangent, [examples, repeats, …]; ``slots``: what it takes, slot -> name."""


@dataclass(frozen=True, eq=False)
class Entry:
    """One place where a parameter is used."""

    use: Use
    slot: str
    operand: Operand


@dataclass
class Ledger:
    """The account of one batch: what each use adds, at once or together with the parameter's other uses.

    Args:
        uses: of the forward pass.
        parameters: live, by name.
        sums: name -> Σ |gradient|^power, added to.
        slow: the parameters that the fallback serves.
        examples: in the batch.
        several: whether more than one cotangent will come.
    """

    uses: Sequence[Use]
    parameters: Parameters
    sums: Parameters
    slow: set[str]
    examples: int
    several: bool
    power: int
    memory: int
    observer: Observer | None
    routes: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._totals: dict[Use, dict[str, Tensor]] = defaultdict(dict)
        self._observed: dict[Use, dict[str, str]] = defaultdict(dict)
        self._selected: list[tuple[Operand, str, Tensor]] = []
        self._joint: dict[str, list[Entry]] = {}
        self._tied: dict[str, Tied] = {}
        self._kept: set[Use] = set()
        self._gradients: dict[Use, tuple[Mapping[str, Tensor], Tensor]] = {}
        self._squares: dict[Use, tuple[Mapping[str, Tensor], Tensor]] = {}
        entries: dict[str, list[Entry]] = defaultdict(list)
        for use in self.uses:
            for slot, operand in use.slots.items():
                for name in operand.names:
                    entries[name].append(Entry(use, slot, operand))
        for name, found in entries.items():
            if name not in self.slow:
                self._enter(name, found)

    def _enter(self, name: str, entries: list[Entry]) -> None:
        """Decide how a parameter's uses add up."""
        parameter = self.parameters[name]
        entry = entries[0]
        if len(entries) == 1 and entry.operand.tensor is parameter:
            self.routes[name] = entry.use.rule.name
            self._take(entry, name, self.sums[name])
            return
        rules = list(dict.fromkeys(entry.use.rule.name for entry in entries))
        self.routes[name] = "+".join(rules)
        if self.sums[name].stride() != parameter.stride():  # a view of the one is to be a view of the other
            self.sums[name] = torch.empty_like(parameter.detach(), dtype=self.sums[name].dtype).copy_(self.sums[name])
        views = [_view(self.sums[name], parameter, entry.operand) for entry in entries]
        if all(view is not None for view in views) and _apart(parameter, entries):
            for entry, view in zip(entries, views, strict=True):
                assert view is not None
                self._take(entry, name, view)
        elif len(entries) == 1 and _moved_once(entries[0].operand, parameter):
            (entry,) = entries
            total = torch.zeros_like(entry.operand.tensor, dtype=self.sums[name].dtype)
            self._totals[entry.use][entry.slot] = total
            self._selected.append((entry.operand, name, total))
        elif (tied := Tied.of([(entry.use, entry.slot, entry.operand.tensor is parameter) for entry in entries],
                              self.sums[name], self.power, self.memory)) is not None:
            self._tied[name] = tied
        else:
            self._joint[name] = entries
            self._kept.update(entry.use for entry in entries)
            if any(not entry.operand.selects for entry in entries):
                self.routes[name] += " (vjp)"

    def _take(self, entry: Entry, name: str, total: Tensor) -> None:
        """A use that adds to its part of the sum at once, or is the observer's."""
        if self.observer is not None and self.observer.takes(entry.use, entry.slot, name):
            self._observed[entry.use][entry.slot] = name
        else:
            self._totals[entry.use][entry.slot] = total

    def receive(self, use: Use, gradient: Tensor) -> None:
        """One use's gradient at its output, in the backward pass, which records no graph."""
        if use in self._squares and not (self._tied or self._kept or self.observer):
            self._add_powers(use, widened(use.gradient(gradient, self.examples)))
            return
        totals, observed = self._totals.get(use, {}), self._observed.get(use, {})
        tied = [self._tied[name] for operand in use.slots.values() for name in operand.names
                if name in self._tied] if self._tied else []
        if not (totals or observed or tied or use in self._kept):
            return
        sources, g = use.by_examples(gradient, self.examples)
        if observed and self.observer is not None:
            self.observer.see(use, sources, g, observed)
        for one in tied:
            one.receive(use, sources, g)
        if use in self._kept:
            self._gradients[use] = (sources, g)
        if self.several and totals and use.outer(sources):
            self._squares.setdefault(use, (sources, torch.zeros_like(widened(g))))
            self._add_powers(use, widened(g))
        elif totals:
            use.rule.accumulate(sources, g, use.call, totals, self.power, self.memory)
        if not (self.several or tied or use in self._kept):
            use.release()

    def _add_powers(self, use: Use, g: Tensor) -> None:
        """Σ over cotangents of |gradient at the output|^power, which is multiplied with the input's once."""
        powers = self._squares[use][1]
        if self.power == 2:
            powers.addcmul_(g, g)
        else:
            powers.add_(g.abs())

    def settle(self) -> None:
        """At the end of one cotangent's backward: what had to wait for a parameter's other uses."""
        with torch.no_grad():
            for tied in self._tied.values():
                tied.settle()
            for name, entries in self._joint.items():
                self._sum(name, [entry for entry in entries if entry.use in self._gradients])
        self._gradients.clear()

    def close(self) -> None:
        """At the end of the batch."""
        with torch.no_grad():
            for use, (sources, powers) in self._squares.items():
                assert isinstance(use.rule, Separable)
                use.rule.accumulate_powers(sources, powers, self._totals[use], self.power)
        for operand, name, total in self._selected:
            (moved,) = torch.autograd.grad(
                operand.tensor, [self.parameters[name]], total.to(operand.tensor.dtype), retain_graph=True)
            self.sums[name] += moved

    def _sum(self, name: str, entries: list[Entry]) -> None:
        """Add |Σ over a parameter's uses of an example's gradient|^power, a tile of examples at a time."""
        total, start = self.sums[name], 0
        step = tile(min(self.memory, _BUFFER), total.numel(), total)
        while entries and start < self.examples:
            part = slice(start, min(self.examples, start + step))
            try:
                buffer = total.new_zeros(part.stop - start, *total.shape)
                for entry in entries:
                    self._add(entry, name, part, buffer)
            except RuntimeError as error:
                if step == 1 or not exhausted(error):
                    raise
                step = max(1, step // 2)
                continue
            add_powers(total, buffer, self.power)
            start = part.stop

    def _add(self, entry: Entry, name: str, part: slice, buffer: Tensor) -> None:
        """Add what one use gives to some examples' gradients."""
        sources, g = self._gradients[entry.use]
        cut = {key: source[part] for key, source in sources.items()}
        rule, operand = entry.use.rule, entry.operand
        if operand.tensor is self.parameters[name]:
            rule.add_gradients(cut, g[part], entry.use.call, entry.slot, buffer)
            return
        own = buffer.new_zeros(len(buffer), *operand.tensor.shape)
        rule.add_gradients(cut, g[part], entry.use.call, entry.slot, own)
        for moved, one in zip(buffer, _pulled(operand, self.parameters[name], own), strict=True):
            if one is not None:
                moved.add_(one)


def _pulled(operand: Operand, parameter: Tensor, gradients: Tensor) -> Iterator[Tensor | None]:
    """The gradients by a parameter of gradients by a function of it, one example after another."""
    for gradient in gradients:
        yield torch.autograd.grad(operand.tensor, [parameter], gradient.to(operand.tensor.dtype), retain_graph=True,
                                  allow_unused=True)[0]


def _view(total: Tensor, parameter: Tensor, operand: Operand) -> Tensor | None:
    """The part of a parameter's sum that belongs to a view of it; None where the operand is no view."""
    tensor = operand.tensor
    if tensor is parameter:
        return total
    if not operand.selects or len(operand.names) != 1 or total.stride() != parameter.stride():
        return None
    if tensor.untyped_storage().data_ptr() != parameter.untyped_storage().data_ptr() or tensor.dtype != parameter.dtype:
        return None
    if any(size > 1 and stride == 0 for size, stride in zip(tensor.shape, tensor.stride(), strict=True)):
        return None
    return total.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset() - parameter.storage_offset())


def _apart(parameter: Tensor, entries: Sequence[Entry]) -> bool:
    """Whether no element of a parameter is used twice; a second use in another function would add before the power."""
    if len(entries) == 1:
        return True
    if sum(entry.operand.tensor.numel() for entry in entries) > parameter.numel():
        return False
    times = torch.zeros_like(parameter, dtype=torch.int32)
    for entry in entries:
        view = _view(times, parameter, Operand(entry.operand.tensor, entry.operand.names, True, 0))
        if view is None:
            return False
        view.add_(1)
    return int(times.max()) <= 1


def _moved_once(operand: Operand, parameter: Tensor) -> bool:
    """Whether each element of a parameter stands at most once in a selection from it."""
    if not operand.selects or len(operand.names) != 1 or operand.tensor.dtype != parameter.dtype:
        return False  # sums of squares do not fit into fewer bits
    (times,) = torch.autograd.grad(operand.tensor, [parameter], torch.ones_like(operand.tensor), retain_graph=True)
    return bool(((times == 0) | (times == 1)).all())
