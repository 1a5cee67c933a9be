"""Adds up |per-example gradient|^power, batch by batch: by closed forms where a rule knows the use, else slowly."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import disable_saved_tensors_hooks

from forgetting.fisher import fallback
from forgetting.fisher.batches import Batch, Forward, choose, count, transform, unwrap
from forgetting.fisher.capture import Capture, Diverged, Use
from forgetting.fisher.columns import Columns
from forgetting.fisher.labels import Labels
from forgetting.fisher.layouts import Mixes, Plan, independent, probe
from forgetting.fisher.ledger import Ledger, Observer
from forgetting.fisher.mixing import culprit
from forgetting.fisher.rules import widened
from forgetting.parameters import Parameters, canonical

_RUNS_AGAIN = "forgetting: parts of the forward pass run again in the backward pass"


class Adapter(nn.Module):
    """The model behind its forward function, so that ``functional_call`` can swap weights under any of them."""

    def __init__(self, model: nn.Module, forward: Forward) -> None:
        super().__init__()
        self.model = model
        self._forward = forward

    def forward(self, batch: Batch) -> tuple[Any, Tensor]:
        return self._forward(self.model, batch)


class _Inbox:
    """Where gradients arrive. It knows nothing of the graph, which knows it: the garbage collector sees no circle that
    runs through a graph."""

    def __init__(self) -> None:
        self.ledger: Ledger | None = None
        self.early = False

    def receive(self, use: Use, gradient: Tensor) -> None:
        """A use's gradient; one that comes before the forward pass has ended is a derivative inside the model."""
        if self.ledger is None:
            self.early = True
        else:
            self.ledger.receive(use, gradient)


@dataclass
class _Pass:
    """One forward pass: ``uses`` is None where no rule may look at it."""

    outputs: Tensor
    targets: Tensor
    uses: list[Use] | None
    root: Tensor
    inbox: _Inbox


@dataclass
class Accumulator:
    """The sums over one pass of the data; ``sums`` and ``routes`` are its results.

    Args:
        adapter: the model.
        parameters: live, by name.
        labels: gives the cotangents.
        power: 1 or 2.
        memory: bytes that temporary per-example gradients may take.
        observer: takes some uses away from the sums.
    """

    adapter: Adapter
    parameters: Parameters
    labels: Labels
    memory: int
    power: int = 2
    observer: Observer | None = None
    sums: Parameters = field(init=False)
    routes: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        self.sums = {name: torch.zeros_like(widened(value.detach())) for name, value in self.parameters.items()}
        self.routes = dict.fromkeys(self.parameters, "unused")
        self._tracked = {id(value): name for name, value in self.parameters.items()}
        self._actual = {canonical(name): name for name, _ in self.adapter.named_parameters()}
        self._plan: Plan | None = None
        self._checked: set[int] = set()
        self._vmap_works = True

    def add(self, batch: Batch) -> None:
        """Add one batch's sum over examples of |gradient|^power.

        No rule knows a model that differentiates within its forward pass (a second derivative), or runs parts of it
        again in the backward pass (activation checkpoints): all of it goes to the fallback.
        """
        with torch.enable_grad():
            run = self._forward(batch)
        cotangents = self.labels.cotangents(run.outputs.detach(), run.targets)
        if not isinstance(cotangents, Columns):
            self._send_back(run, batch, cotangents)
            return
        shared = cotangents.shared()
        self._send_back(run, batch, list(cotangents.vectors[:shared]))
        for examples, vectors in cotangents.left(shared):
            part = choose(batch, examples.tolist())
            with torch.enable_grad():
                run = self._forward(part)
            self._send_back(run, part, [vectors])

    def _send_back(self, run: _Pass, batch: Batch, cotangents: Sequence[Tensor]) -> None:
        """Add what the cotangents bring back through one forward pass's graph."""
        reached = [leaf for leaf in _leaves(run.outputs) if id(leaf) in self._tracked]
        uses = run.uses or []
        slow = set(self.parameters) if run.uses is None else {self._tracked[id(leaf)] for leaf in reached}
        slow |= {name for use in uses if use.changed() for operand in use.slots.values() for name in operand.names}
        ledger = Ledger(uses, self.parameters, self.sums, slow, count(batch), len(cotangents) > 1, self.power,
                        self.memory, self.observer)
        self.routes.update(ledger.routes)
        if ledger.routes:
            run.inbox.ledger = ledger
            try:
                for k, cotangent in enumerate(cotangents):
                    more = k + 1 < len(cotangents)
                    torch.autograd.grad(
                        run.outputs, [run.root, *reached], cotangent, retain_graph=more, allow_unused=True)
                    ledger.settle()
                ledger.close()
            finally:
                run.inbox.ledger = None
        if slow:
            self._fall_back(sorted(slow), batch, cotangents)

    def add_batched(self, batch: Batch) -> None:
        """Add |gradient of one batch's mean|^power, which is not a Fisher."""
        with torch.enable_grad():
            outputs, targets = self._outputs(batch, copied=True)
            cotangents = self.labels.cotangents(outputs.detach(), targets)
            assert isinstance(cotangents, list)
            gradients = torch.autograd.grad(
                outputs, list(self.parameters.values()), cotangents[0] / len(outputs), allow_unused=True
            )
        for name, gradient in zip(self.parameters, gradients, strict=True):
            if gradient is not None:
                self.sums[name] += widened(gradient).abs().pow(self.power)
                self.routes[name] = "batched"

    def _forward(self, batch: Batch) -> _Pass:
        """The forward pass under the plan, which is made anew where it does not fit this batch."""
        plan = self._plan
        if plan is not None and plan.serves(batch):
            try:
                return self._follow(plan, batch)
            except Diverged:
                pass
        self._plan = plan = self._probed(batch)
        try:
            run = self._follow(plan, batch)
        except Diverged:
            run = self._unseen(batch)
        try:
            independent(plan.outputs, run.outputs.detach()[list(plan.indices)])
        except Mixes as error:
            raise self._mixing(batch, error) from None
        return run

    def _probed(self, batch: Batch) -> Plan:
        try:
            return probe(lambda part: self._outputs(part)[0], self.parameters, batch)
        except Mixes as error:
            raise self._mixing(batch, error) from None

    def _mixing(self, batch: Batch, error: Mixes) -> ValueError:
        return ValueError(
            f"the outputs of an example change {error} with the examples beside it, even in eval mode: "
            f"{culprit(self.adapter.model, lambda part: self._outputs(part, copied=True)[0], batch)} mixes examples or "
            "draws random numbers, so there is no gradient of one example; use running statistics or a norm within the "
            "example"
        )

    def _follow(self, plan: Plan, batch: Batch) -> _Pass:
        if plan.steps is None:
            return self._unseen(batch)
        inbox = _Inbox()
        capture = Capture(self.parameters, plan.steps, count(batch), inbox.receive)
        try:
            with capture, disable_saved_tensors_hooks(_RUNS_AGAIN):
                outputs, targets = self._outputs(batch, copied=plan.overwrites)
        except RuntimeError as error:
            if _RUNS_AGAIN not in str(error):
                raise
            return self._unseen(batch)
        capture.finish()
        if inbox.early:
            return self._unseen(batch)
        return _Pass(outputs, targets, capture.uses, capture.root, inbox)

    def _unseen(self, batch: Batch) -> _Pass:
        """A forward pass that no rule looks at."""
        outputs, targets = self._outputs(batch, copied=True)
        return _Pass(outputs, targets, None, outputs, _Inbox())

    def _fall_back(self, names: Sequence[str], batch: Batch, cotangents: Sequence[Tensor]) -> None:
        parameters = {name: self.parameters[name] for name in names}
        sums = self._by_vmap(parameters, batch, cotangents) if self._vmap_works else None
        if sums is None:
            with torch.enable_grad():
                sums = fallback.by_loop(self._functional, parameters, batch, cotangents, self.power)
        for name, value in sums.items():
            self.sums[name] += value
            self.routes[name] = "vmap" if self._vmap_works else "loop"

    def _by_vmap(
        self, parameters: Parameters, batch: Batch, cotangents: Sequence[Tensor]
    ) -> Parameters | None:
        """None, from now on, where ``vmap`` cannot trace the model; what is really wrong the loop raises."""
        try:
            return fallback.by_vmap(self._functional, parameters, batch, cotangents, self.memory, self.power)
        except torch.OutOfMemoryError:
            raise
        except Exception:  # noqa: BLE001 - vmap raises whatever its untraceable operation raises
            self._vmap_works = False
            return None

    def _outputs(self, batch: Batch, *, copied: bool = False) -> tuple[Tensor, Tensor]:
        """The logits of the task's columns, and the targets; from a copy, where the model overwrites what it is given.
        """
        outputs, targets = self.adapter(transform(batch, torch.clone) if copied else batch)
        return self.labels.restricted(unwrap(outputs)), targets

    def _functional(self, values: Mapping[str, Tensor], batch: Batch) -> Tensor:
        swapped = {self._actual[f"model.{name}"]: value for name, value in values.items()}
        outputs, _ = torch.func.functional_call(self.adapter, swapped, (transform(batch, torch.clone),))
        return self.labels.restricted(unwrap(outputs))


def _leaves(output: Tensor) -> Iterator[Tensor]:
    """The leaf tensors that an output depends on."""
    if output.grad_fn is None:
        if output.requires_grad:
            yield output
        return
    waiting = [output.grad_fn]
    seen = set(waiting)
    while waiting:
        node = waiting.pop()
        leaf = getattr(node, "variable", None)
        if leaf is not None:
            yield leaf
        for parent, _ in node.next_functions:
            if parent is not None and parent not in seen:
                seen.add(parent)
                waiting.append(parent)
