"""Adds up squared per-example gradients, batch by batch: by closed forms where a rule knows the use, else slowly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import disable_saved_tensors_hooks

from forgetting.fisher import fallback
from forgetting.fisher.batches import Batch, Forward, count, transform, unwrap
from forgetting.fisher.capture import Capture, Layout, Layouts, Use, leaves, repeated
from forgetting.fisher.likelihoods import Categorical, Likelihood, infer
from forgetting.fisher.rules.base import widened
from forgetting.parameters import Parameters, canonical

_RUNS_AGAIN = "forgetting: parts of the forward pass run again in the backward pass"
_IGNORED = -1  # no column has this number, whatever ignore_index the data uses


class Adapter(nn.Module):
    """The model behind its forward function, so that ``functional_call`` can swap weights under any of them."""

    def __init__(self, model: nn.Module, forward: Forward) -> None:
        super().__init__()
        self.model = model
        self._forward = forward

    def forward(self, batch: Batch) -> tuple[Any, Tensor]:
        return self._forward(self.model, batch)


@dataclass(frozen=True)
class Plan:
    """How one batch goes: where each use holds the examples, and which parameters the closed forms cannot serve."""

    layouts: dict[int, Layout]
    slow: set[str]
    examples: int


@dataclass
class Accumulator:
    """The sums over one pass of the data; ``sums`` and ``routes`` are its results."""

    adapter: Adapter
    parameters: Parameters
    columns: Tensor | None
    labels: str
    likelihood: Likelihood | None
    tolerance: float
    generator: torch.Generator
    memory: int
    sums: Parameters = field(init=False)
    routes: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        self.sums = {name: torch.zeros_like(widened(value.detach())) for name, value in self.parameters.items()}
        self.routes = dict.fromkeys(self.parameters, "unused")
        self._tracked = {id(value): name for name, value in self.parameters.items()}
        self._actual = {canonical(name): name for name, _ in self.adapter.named_parameters()}
        self._layouts = Layouts(lambda batch: self._outputs(batch)[0], self._tracked)
        self._vmap_works = True
        self._last = -1 if self.columns is None else int(self.columns.max())

    def add(self, batch: Batch) -> None:
        """Add one batch's sum over examples of squared gradients.

        No rule knows a model that differentiates within its forward pass (a second derivative), or runs parts of it
        again in the backward pass (activation checkpoints): all of it goes to the fallback.
        """
        plan: Plan | None = None
        early: list[Use] = []

        def receive(use: Use, gradient: Tensor) -> None:
            if plan is None:
                early.append(use)
            else:
                self._receive(use, gradient, plan)

        capture = Capture(self._tracked, receive)
        with torch.enable_grad():
            try:
                with capture, disable_saved_tensors_hooks(_RUNS_AGAIN):
                    outputs, targets = self._outputs(batch)
                opaque = bool(early)
            except RuntimeError as error:
                if _RUNS_AGAIN not in str(error):
                    raise
                opaque = True
                outputs, targets = self._outputs(batch)
        cotangents = self._cotangents(outputs, targets)
        reached = {key: leaf for key, leaf in leaves(outputs).items() if key in self._tracked}
        if opaque:
            self._layouts.separate(batch, outputs.detach())
            plan = Plan({}, set(self.parameters), count(batch))
        else:
            plan = self._plan(capture, {self._tracked[key] for key in reached}, batch, outputs)
        if any(name not in plan.slow for use in capture.uses for name in use.slots.values()):
            for k, cotangent in enumerate(cotangents):
                more = k + 1 < len(cotangents)
                torch.autograd.grad(
                    outputs, [capture.root, *reached.values()], cotangent, retain_graph=more, allow_unused=True
                )
        if plan.slow:
            self._fall_back(sorted(plan.slow), batch, cotangents)

    def add_batched(self, batch: Batch) -> None:
        """Add the square of one batch's mean gradient, which is not a Fisher."""
        with torch.enable_grad():
            outputs, targets = self._outputs(batch)
            (cotangent,) = self._cotangents(outputs, targets)
            gradients = torch.autograd.grad(
                outputs, list(self.parameters.values()), cotangent / len(outputs), allow_unused=True
            )
        for name, gradient in zip(self.parameters, gradients, strict=True):
            if gradient is not None:
                self.sums[name] += widened(gradient).square()
                self.routes[name] = "batched"

    def _plan(self, capture: Capture, reached: set[str], batch: Batch, outputs: Tensor) -> Plan:
        """Slow is what reached the outputs past the rules, is used twice, or whose examples cannot be told apart."""
        slow, layouts = reached | repeated(capture.uses), {}
        for use, layout in zip(capture.uses, self._layouts.of(capture, batch, outputs), strict=True):
            names = use.slots.values()
            if layout is None or use.changed():
                slow |= set(names)
            else:
                layouts[id(use)] = layout
            self.routes.update({name: use.rule.name for name in names if name not in slow})
        return Plan(layouts, slow, count(batch))

    def _receive(self, use: Use, gradient: Tensor, plan: Plan) -> None:
        wanted = {slot: name for slot, name in use.slots.items() if name not in plan.slow}
        if not wanted:
            return
        layout = plan.layouts[id(use)]
        with torch.no_grad():
            source = layout.examples_first(use.source, plan.examples)
            sums = use.rule.accumulate(
                source, layout.examples_first(gradient, plan.examples), use.call, self.memory
            )
            for slot, name in wanted.items():
                self.sums[name] += sums[slot]

    def _fall_back(self, names: Sequence[str], batch: Batch, cotangents: Sequence[Tensor]) -> None:
        parameters = {name: self.parameters[name] for name in names}
        sums = self._by_vmap(parameters, batch, cotangents) if self._vmap_works else None
        if sums is None:
            with torch.enable_grad():
                sums = fallback.by_loop(self._functional, parameters, batch, cotangents)
        for name, value in sums.items():
            self.sums[name] += value
            self.routes[name] = "vmap" if self._vmap_works else "loop"

    def _by_vmap(
        self, parameters: Parameters, batch: Batch, cotangents: Sequence[Tensor]
    ) -> Parameters | None:
        """None, from now on, where ``vmap`` cannot trace the model; what is really wrong the loop raises."""
        try:
            return fallback.by_vmap(self._functional, parameters, batch, cotangents, self.memory)
        except torch.OutOfMemoryError:
            raise
        except Exception:  # noqa: BLE001 - vmap raises whatever its untraceable operation raises
            self._vmap_works = False
            return None

    def _outputs(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The logits of the task's columns, and the targets; a copy, for a model may overwrite what it is given."""
        outputs, targets = self.adapter(transform(batch, torch.clone))
        return self._restricted(unwrap(outputs)), targets

    def _functional(self, values: Mapping[str, Tensor], batch: Batch) -> Tensor:
        swapped = {self._actual[f"model.{name}"]: value for name, value in values.items()}
        outputs, _ = torch.func.functional_call(self.adapter, swapped, (transform(batch, torch.clone),))
        return self._restricted(unwrap(outputs))

    def _restricted(self, outputs: Tensor) -> Tensor:
        if self.columns is None:
            return outputs
        if self._last >= outputs.shape[-1]:
            raise ValueError(f"outputs= names column {self._last}, the model gives {outputs.shape[-1]}")
        return outputs.index_select(-1, self.columns.to(outputs.device))

    def _cotangents(self, outputs: Tensor, targets: Tensor) -> list[Tensor]:
        if not torch.isfinite(outputs).all():
            raise ValueError("the model's outputs are not finite; check the weights and the data before consolidating")
        if not torch.isfinite(targets).all():
            raise ValueError("the targets are not finite, so the loss is not; check the data before consolidating")
        if targets.ndim == 0 or len(targets) != len(outputs):
            raise ValueError(
                f"outputs of shape {tuple(outputs.shape)} and targets of shape {tuple(targets.shape)} must both have "
                "the examples in their first dimension"
            )
        targets = targets.to(outputs.device)
        likelihood = self.likelihood or infer(outputs, targets)
        if isinstance(likelihood, Categorical):
            likelihood.check_kind(targets)
            targets = self._local(targets, outputs, likelihood.ignore_index)
            likelihood = likelihood.ignoring(_IGNORED)
        likelihood.check(outputs, targets)
        if self.labels == "exact":
            return list(likelihood.exact(outputs, targets, self.tolerance))
        if self.labels == "sampled":
            return [likelihood.sampled(outputs, targets, self.generator)]
        return [likelihood.empirical(outputs, targets)]

    def _local(self, targets: Tensor, outputs: Tensor, ignore_index: int) -> Tensor:
        """Labels as positions within the task's columns, what is ignored as −1; a label outside them raises."""
        targets = targets.long()
        ignored = targets == ignore_index
        columns = self.columns if self.columns is not None else torch.arange(outputs.shape[-1])
        columns = columns.to(targets.device)
        outside = ~(torch.isin(targets, columns) | ignored)
        if outside.any():
            raise ValueError(
                f"labels outside the outputs: {sorted(set(targets[outside].tolist()))[:8]} with the columns "
                f"{_shown(columns.tolist())}; targets are column numbers of the model's full outputs, also where "
                "outputs= names a task's columns"
            )
        lookup = targets.new_zeros(int(columns.max()) + 1)
        lookup[columns] = torch.arange(len(columns), device=targets.device)
        return lookup[targets.masked_fill(ignored, int(columns[0]))].masked_fill(ignored, _IGNORED)


def _shown(columns: list[int]) -> str:
    return str(columns) if len(columns) <= 12 else f"{columns[0]}…{columns[-1]}"
