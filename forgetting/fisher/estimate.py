"""The one pass over the data: always a mean over examples."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from forgetting.curvature import Diagonal
from forgetting.fisher import fallback
from forgetting.fisher.batches import Batch, Forward, choose, count, default_forward, transform, unwrap
from forgetting.fisher.capture import Capture, Layouts, Use, leaves, repeated
from forgetting.fisher.likelihoods import Likelihood, infer
from forgetting.fisher.rules.base import widened
from forgetting.parameters import Parameters, Selection, canonical, evaluating, named

LABELS = ("exact", "sampled", "empirical", "batched")
MEMORY = 256 * 2**20


class _Adapter(nn.Module):
    """The model behind its forward function, so that ``functional_call`` can swap weights under any of them."""

    def __init__(self, model: nn.Module, forward: Forward) -> None:
        super().__init__()
        self.model = model
        self._forward = forward

    def forward(self, batch: Batch) -> tuple[Any, Tensor]:
        return self._forward(self.model, batch)


@dataclass
class _Pass:
    """What one pass over the data needs and gathers."""

    adapter: _Adapter
    parameters: Parameters
    columns: Tensor | None
    labels: str
    likelihood: Likelihood | None
    tolerance: float
    generator: torch.Generator
    memory: int
    sums: Parameters = field(default_factory=dict)
    routes: dict[str, str] = field(default_factory=dict)
    loops: bool = False

    def __post_init__(self) -> None:
        self.sums = {name: torch.zeros_like(widened(value.detach())) for name, value in self.parameters.items()}
        self.routes = dict.fromkeys(self.parameters, "unused")
        self._tracked = {id(value): name for name, value in self.parameters.items()}
        self._actual = {canonical(name): name for name, _ in self.adapter.named_parameters()}
        self._layouts = Layouts(lambda batch: self.outputs(batch)[0], self._tracked)

    def outputs(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The logits of the task's columns, and the targets as the data gives them."""
        outputs, targets = self.adapter(batch)
        return self.restricted(unwrap(outputs)), targets

    def restricted(self, outputs: Tensor) -> Tensor:
        if self.columns is None:
            return outputs
        if int(self.columns.max()) >= outputs.shape[-1]:
            raise ValueError(f"outputs= names column {int(self.columns.max())}, the model gives {outputs.shape[-1]}")
        return outputs.index_select(-1, self.columns.to(outputs.device))

    def functional(self, values: Mapping[str, Tensor], batch: Batch) -> Tensor:
        swapped = {self._actual[f"model.{name}"]: value for name, value in values.items()}
        outputs, _ = torch.func.functional_call(self.adapter, swapped, (batch,))
        return self.restricted(unwrap(outputs))

    def add(self, batch: Batch) -> None:
        """Add one batch's sum of squares."""
        if self.labels == "batched":
            self._add_batched(batch)
            return
        examples = count(batch)
        capture = Capture(self._tracked, lambda use, gradient: self._receive(use, gradient, layouts, slow))
        with capture, torch.enable_grad():
            outputs, targets = self.outputs(batch)
        found = self._layouts.of(capture.uses, batch)
        layouts = {id(use): layout for use, layout in zip(capture.uses, found, strict=True)}
        reached = {key: leaf for key, leaf in leaves(outputs).items() if key in self._tracked}
        slow = {self._tracked[key] for key in reached} | repeated(capture.uses)
        for use in capture.uses:
            sources = [t for t in (use.source,) if layouts[id(use)] is not None]
            if not sources or layouts[id(use)].examples_first(use.source, examples) is None:
                slow |= set(use.slots.values())
            self.routes.update({name: use.rule.name for name in use.slots.values() if name not in slow})
        self._examples = examples
        cotangents = self._cotangents(outputs, targets)
        self._backward(outputs, [capture.root, *reached.values()], cotangents, capture.uses, slow)
        if slow:
            self._fall_back(sorted(slow), batch, cotangents)

    def _backward(
        self, outputs: Tensor, inputs: list[Tensor], cotangents: list[Tensor], uses: list[Use], slow: set[str]
    ) -> None:
        if all(name in slow for use in uses for name in use.slots.values()) or not outputs.requires_grad:
            return
        for k, cotangent in enumerate(cotangents):
            torch.autograd.grad(
                outputs, inputs, cotangent, retain_graph=k + 1 < len(cotangents), allow_unused=True
            )

    def _receive(self, use: Use, gradient: Tensor, layouts: Mapping[int, Any], slow: set[str]) -> None:
        wanted = {slot: name for slot, name in use.slots.items() if name not in slow}
        if not wanted:
            return
        if use.call[use.rule.source]._version != use.version:
            raise RuntimeError(f"the input of {use.rule.name} for {sorted(wanted.values())} was changed in place later")
        layout = layouts[id(use)]
        source = layout.examples_first(use.source, self._examples)
        with torch.no_grad():
            sums = use.rule.accumulate(
                source, layout.examples_first(gradient, self._examples), use.call, self.memory
            )
            for slot, name in wanted.items():
                self.sums[name] += sums[slot]

    def _fall_back(self, names: list[str], batch: Batch, cotangents: list[Tensor]) -> None:
        parameters = {name: self.parameters[name] for name in names}
        sums = None
        if not self.loops:
            try:
                sums = fallback.by_vmap(self.functional, parameters, batch, cotangents, self.memory)
            except torch.OutOfMemoryError:
                raise
            except Exception:  # noqa: BLE001 - whatever vmap cannot trace, the loop runs and raises what is real
                self.loops = True
        if sums is None:
            with torch.enable_grad():
                sums = fallback.by_loop(self.functional, parameters, batch, cotangents)
        for name, value in sums.items():
            self.sums[name] += value
            self.routes[name] = "loop" if self.loops else "vmap"

    def _add_batched(self, batch: Batch) -> None:
        with torch.enable_grad():
            outputs, targets = self.outputs(batch)
            (cotangent,) = self._cotangents(outputs, targets)
            gradients = torch.autograd.grad(
                outputs, list(self.parameters.values()), cotangent / count(batch), allow_unused=True
            )
        for name, gradient in zip(self.parameters, gradients, strict=True):
            if gradient is not None:
                self.sums[name] += widened(gradient).square()
                self.routes[name] = "batched"

    def _cotangents(self, outputs: Tensor, targets: Tensor) -> list[Tensor]:
        if not torch.isfinite(outputs).all():
            raise ValueError("the model's outputs are not finite; check the weights and the data before consolidating")
        targets = targets.to(outputs.device)
        likelihood = self.likelihood or infer(outputs, targets)
        targets = self._local(targets, outputs, likelihood)
        likelihood.check(outputs, targets)
        if self.labels == "exact":
            return list(likelihood.exact(outputs, targets, self.tolerance))
        if self.labels == "sampled":
            return [likelihood.sampled(outputs, targets, self.generator)]
        return [likelihood.empirical(outputs, targets)]

    def _local(self, targets: Tensor, outputs: Tensor, likelihood: Likelihood) -> Tensor:
        """Targets as positions within the task's columns; a label outside them raises."""
        if targets.is_floating_point() or targets.dtype == torch.bool:
            return targets
        ignored = targets == getattr(likelihood, "ignore_index", -100)
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
        return torch.where(ignored, targets, lookup[targets.masked_fill(ignored, int(columns[0]))])


def _shown(columns: list[int]) -> str:
    return str(columns) if len(columns) <= 12 else f"{columns[0]}…{columns[-1]}"


def diagonal(
    model: nn.Module,
    data: Iterable[Batch],
    *,
    labels: str = "exact",
    likelihood: Likelihood | None = None,
    forward: Forward | None = None,
    outputs: Iterable[int] | None = None,
    parameters: Selection = None,
    examples: int | None = None,
    tolerance: float = 0.0,
    generator: torch.Generator | None = None,
    memory: int = MEMORY,
) -> Diagonal:
    r"""The diagonal of the Fisher information: the mean over examples of squared per-example score gradients.

    .. math:: F_i = \frac1N \sum_{n=1}^{N} \mathbb{E}_{y\sim p_\theta(y\mid x_n)}
              \Big[\big(\partial_{\theta_i} \log p_\theta(y \mid x_n)\big)^2\Big]

    θ are the selected weights, xₙ the N examples of ``data``. An example is one input; for sequences one SEQUENCE,
    whose score is the sum over its valid positions. The batch size never enters (``"batched"`` apart).

    Args:
        model: any module; it is run in eval mode and left as found.
        data: batches: ``(inputs, targets)`` pairs, or mappings with ``labels``; ragged sizes are fine. Inputs may be a
            tensor, a tuple or a mapping. Moved to the model's device.
        labels: ``"exact"`` takes the expectation over the model's own predictive; ``"sampled"`` one draw from it;
            ``"empirical"`` the data's label; ``"batched"`` the square of the gradient of each batch's MEAN loss,
            averaged over batches, which is not a Fisher and exists to reproduce others.
        likelihood: what the outputs mean; ``None`` serves outputs [examples, classes] with integer targets.
        forward: ``forward(model, batch) -> (outputs, targets)`` for batches or models of another shape.
        outputs: the columns of the last output dimension that belong to the task; targets stay numbers of ALL columns.
        parameters: patterns or a function of the name; default: every parameter that requires a gradient.
        examples: stop after exactly this many.
        tolerance: for exact categorical labels, the share in [0, 1) of the predictive covariance's trace that may be
            dropped to save backwards; 0 ≤ F − F̂ then holds elementwise, the error of F̂ itself is not bounded by it.
        generator: draws for ``"sampled"``; default: a fresh one with seed 0.
        memory: bytes that temporary per-example gradients may take.

    Returns:
        A :class:`~forgetting.curvature.Diagonal` in float32 or better, on the model's device; its ``.routes`` says for
        every parameter which closed form computed it, or ``"vmap"``, ``"loop"``, ``"unused"``.

    Raises:
        ValueError: no data, no parameters, labels outside the outputs, outputs that are not finite, a model that mixes
            examples, exact labels beyond 256 backwards, outputs whose likelihood cannot be told.
        KeyError: a dict batch without ``labels``.
        TypeError: a batch or a model's return value of an unknown kind.

    **Cost**: one forward, and one backward for sampled and empirical labels; for exact ones a backward a class (and
    position). Memory: one copy of the parameters, plus ``memory``. The fallback costs one backward an example.

    **Reference**: Kirkpatrick et al. 2017 (arXiv 1612.00796); van de Ven 2025 (arXiv 2502.11756) compares the labels.

    **Differs**: nothing; a mean over examples, where the paper leaves the scale to λ.

    Example:
        >>> import forgetting.fisher
        >>> model = nn.Linear(2, 3, bias=False)
        >>> data = [(torch.randn(4, 2), torch.tensor([0, 1, 2, 0]))]
        >>> fisher = forgetting.fisher.diagonal(model, data, labels="empirical")
        >>> fisher["weight"].shape, fisher.examples, fisher.routes
        (torch.Size([3, 2]), 4, {'weight': 'linear'})
    """
    if labels not in LABELS:
        raise ValueError(f"labels={labels!r} is not one of {', '.join(LABELS)}")
    if not 0 <= tolerance < 1:
        raise ValueError(f"tolerance is a share of the predictive trace in [0, 1), got {tolerance}")
    if examples is not None and examples < 1:
        raise ValueError(f"examples= must be at least 1, got {examples}")
    model = getattr(model, "_orig_mod", model)
    _refuse_batch_statistics(model)
    with evaluating(model):
        chosen = named(model, parameters, trainable=parameters is None)
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        for parameter in chosen.values():
            parameter.requires_grad_(True)
        run = _Pass(
            adapter=_Adapter(model, forward or default_forward),
            parameters=chosen,
            columns=None if outputs is None else torch.tensor(list(outputs)),
            labels=labels,
            likelihood=likelihood,
            tolerance=tolerance,
            generator=generator or torch.Generator().manual_seed(0),
            memory=memory,
        )
        device = next(iter(chosen.values())).device
        batches, seen = 0, 0
        for batch in _limited(data, examples):
            run.add(transform(batch, lambda tensor: tensor.detach().to(device)))
            batches, seen = batches + 1, seen + count(batch)
    if not seen:
        raise ValueError("the data holds no examples: an iterator that was used up, or an empty loader?")
    divisor = batches if labels == "batched" else seen
    means = {name: total / divisor for name, total in run.sums.items()}
    return Diagonal(means, examples=seen, labels=labels, routes=run.routes)


def _limited(data: Iterable[Batch], examples: int | None) -> Iterator[Batch]:
    """The batches up to exactly ``examples`` examples; empty ones are left out."""
    left = examples
    for batch in data:
        size = count(batch)
        if size == 0:
            continue
        if left is not None and size >= left:
            yield batch if size == left else choose(batch, range(left))
            return
        yield batch
        left = None if left is None else left - size


def _refuse_batch_statistics(model: nn.Module) -> None:
    """BatchNorm without running statistics mixes examples even in eval mode."""
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is None:
            raise ValueError(
                f"{name or type(module).__name__} normalises by the batch even in eval mode "
                "(track_running_stats=False), so it mixes examples and there is no gradient of one example; "
                "use running statistics or a norm within the example"
            )
