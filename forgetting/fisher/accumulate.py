"""Adds up |per-example gradient|^power, batch by batch: by closed forms where a rule knows the use, else slowly."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import disable_saved_tensors_hooks

from forgetting.fisher import fallback
from forgetting.fisher.agreement import Mixes, disagreeing, independent
from forgetting.fisher.batches import Batch, Forward, choose, count, tensors, transform, unwrap
from forgetting.fisher.capture import Capture, Diverged
from forgetting.fisher.columns import Columns
from forgetting.fisher.labels import Labels
from forgetting.fisher.layouts import Plan, probe
from forgetting.fisher.ledger import Ledger, Observer
from forgetting.fisher.mixing import culprit
from forgetting.fisher.passes import Inbox, Pass, leaves
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


def _zeros(value: Tensor) -> Tensor:
    """Sums of a parameter; of images' kernels channels last, as the rule for convolutions multiplies on a CPU."""
    layouts = {4: torch.channels_last, 5: torch.channels_last_3d} if value.device.type == "cpu" else {}
    return torch.zeros_like(widened(value), memory_format=layouts.get(value.ndim, torch.preserve_format))


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
        self.sums = {name: _zeros(value.detach()) for name, value in self.parameters.items()}
        self.routes = dict.fromkeys(self.parameters, "unused")
        self._tracked = {id(value): name for name, value in self.parameters.items()}
        self._actual = {canonical(name): name for name, _ in self.adapter.named_parameters()}
        self._plan: Plan | None = None
        self._distrusted: set[str] = set()
        self._added = False
        self._shared: set[int] = set()
        self._vmap_works: bool | None = None

    def means(self, divisor: int, *, without: Collection[str] = ()) -> Parameters:
        """The sums ÷ ``divisor``, each laid out in memory as its parameter; not those of the names ``without``."""
        return {name: torch.div(total, divisor, out=torch.empty_like(self.parameters[name], dtype=total.dtype))
                for name, total in self.sums.items() if name not in without}

    def add(self, batch: Batch) -> None:
        """Add one batch's sum over examples of |gradient|^power.

        No rule knows a model that differentiates within its forward pass (a second derivative), or runs parts of it
        again in the backward pass (activation checkpoints): all of it goes to the fallback.
        """
        size = count(batch)
        self._shared |= {number for number, tensor in enumerate(tensors(batch)) if tensor.shape[:1] != (size,)}
        with torch.enable_grad():
            run = self._forward(batch)
        if not run.outputs.requires_grad:
            raise ValueError(f"no gradient flows from the model's outputs to any of the {len(self.parameters)} "
                             "parameters: the forward pass runs under torch.no_grad() or inference_mode(), detaches "
                             "its outputs, or uses none of them")
        cotangents = self.labels.cotangents(run.outputs.detach(), run.targets)
        if not isinstance(cotangents, Columns):
            self._send_back(run, batch, cotangents)
            return
        shared = cotangents.shared(run.outer())
        self._send_back(run, batch, list(cotangents.vectors[:shared]))
        for examples, vectors in cotangents.left(shared):
            part = choose(batch, examples.tolist(), self._shared)
            with torch.enable_grad():
                run = self._forward(part)
            self._send_back(run, part, [vectors])

    def _send_back(self, run: Pass, batch: Batch, cotangents: Sequence[Tensor]) -> None:
        """Add what the cotangents bring back through one forward pass's graph."""
        slow, routes = self._by_rules(run, count(batch), cotangents, self.sums, self._distrusted, self.observer)
        self._added = True
        self.routes.update(routes)
        if slow:
            self._fall_back(sorted(slow), batch, cotangents)

    def _by_rules(self, run: Pass, examples: int, cotangents: Sequence[Tensor], sums: Parameters,
                  distrusted: Collection[str], observer: Observer | None) -> tuple[set[str], dict[str, str]]:
        """Add to the sums what the rules can; the names that they cannot serve, and the routes of the others."""
        reached = [leaf for leaf in leaves(run.outputs) if id(leaf) in self._tracked]
        uses = run.uses or []
        slow = set(self.parameters) if run.uses is None else {self._tracked[id(leaf)] for leaf in reached}
        slow |= {name for use in uses if use.changed() for operand in use.slots.values() for name in operand.names}
        slow |= set(distrusted)
        ledger = Ledger(uses, self.parameters, sums, slow, examples, len(cotangents) > 1, self.power, self.memory,
                        observer)
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
        return slow, ledger.routes

    def _compare(self, plan: Plan, batch: Batch) -> None:
        """Distrust the rules where, for two examples and a random cotangent, they do not give what autograd gives.

        Outputs alone do not tell a gradient that was lost or given to another example.
        """
        ends = sorted({plan.indices[0], plan.indices[-1]})  # one, of a batch of one
        part = choose(batch, ends, self._shared)
        try:
            run = self._follow(plan, part)
        except Diverged:
            return
        if run.uses is None or not run.outputs.requires_grad:
            return
        generator = torch.Generator().manual_seed(0)
        cotangent = torch.randn(run.outputs.shape, generator=generator).to(run.outputs)
        unused = not self._added  # then the sums themselves lend their memory
        sums = self.sums if unused else {name: torch.zeros_like(value) for name, value in self.sums.items()}
        slow, _ = self._by_rules(run, len(ends), [cotangent], sums, (), None)
        del run
        names = {name: value for name, value in self.parameters.items() if name not in slow}
        if names:
            found = {name: float(sums[name].norm()) for name in names}
            fallback.subtract(lambda one: self._outputs(one, copied=True)[0], names, part, cotangent, self.power,
                              self._shared, sums)
            apart = {name: float(sums[name].norm()) for name in names}
            truth = {name: abs(found[name] - apart[name]) for name in names}  # what its norm is at least
            self._distrusted |= disagreeing(apart, truth, self.parameters)
        if unused:
            torch._foreach_zero_(list(sums.values()))

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

    def _forward(self, batch: Batch) -> Pass:
        """The forward pass under the plan, which is made anew where it does not fit this batch."""
        plan = self._plan
        if plan is not None and plan.serves(batch):
            try:
                return self._follow(plan, batch)
            except Diverged:
                pass
        self._plan = plan = self._probed(batch)
        if not plan.decided:
            self._compare(plan, batch)  # before the whole batch's graph is there
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
            return probe(lambda part: self._outputs(part)[0], self.parameters, batch, self._shared)
        except Mixes as error:
            raise self._mixing(batch, error) from None

    def _mixing(self, batch: Batch, error: Mixes) -> ValueError:
        return ValueError(
            f"the outputs of an example change {error} with the examples beside it, even in eval mode: "
            f"{culprit(self.adapter.model, lambda part: self._outputs(part, copied=True)[0], batch)} mixes examples or "
            "draws random numbers, so there is no gradient of one example; use running statistics or a norm within the "
            "example"
        )

    def _follow(self, plan: Plan, batch: Batch) -> Pass:
        if plan.steps is None:
            return self._unseen(batch)
        inbox = Inbox()
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
        return Pass(outputs, targets, capture.uses, capture.root, inbox)

    def _unseen(self, batch: Batch) -> Pass:
        """A forward pass that no rule looks at."""
        outputs, targets = self._outputs(batch, copied=True)
        return Pass(outputs, targets, None, outputs, Inbox())

    def _fall_back(self, names: Sequence[str], batch: Batch, cotangents: Sequence[Tensor]) -> None:
        parameters = {name: self.parameters[name] for name in names}
        sums = self._by_vmap(parameters, batch, cotangents) if self._vmap_works is not False else None
        if sums is None:
            sums = self._by_loop(parameters, batch, cotangents)
        for name, value in sums.items():
            self.sums[name] += value.detach()  # vmap's hang on a graph where the model reaches weights its own way
            self.routes[name] = "vmap" if self._vmap_works else "loop"

    def _by_loop(self, parameters: Parameters, batch: Batch, cotangents: Sequence[Tensor]) -> Parameters:
        with torch.enable_grad():
            return fallback.by_loop(lambda one: self._outputs(one, copied=True)[0], parameters, batch, cotangents,
                                    self.power, self._shared)

    def _by_vmap(
        self, parameters: Parameters, batch: Batch, cotangents: Sequence[Tensor]
    ) -> Parameters | None:
        """None, from now on, where ``vmap`` cannot trace the model, or misses a parameter that the model reaches by
        another way than its name; what is really wrong the loop raises."""
        try:
            if self._vmap_works is None:
                ends = [0, count(batch) - 1]
                part, few = choose(batch, ends, self._shared), [cotangent[ends] for cotangent in cotangents[:2]]
                found = fallback.by_vmap(self._functional, parameters, part, few, self.memory, self.power, self._shared)
                truth = self._by_loop(parameters, part, few)
                norms = {name: float(value.norm()) for name, value in truth.items()}
                apart = {name: float((found[name].detach() - value).norm()) for name, value in truth.items()}
                self._vmap_works = not disagreeing(apart, norms, self.parameters)
                if not self._vmap_works:
                    return None
            return fallback.by_vmap(self._functional, parameters, batch, cotangents, self.memory, self.power,
                                    self._shared)
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
