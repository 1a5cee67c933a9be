"""Slow and obvious references: one backward an example, a position and a class. No code shared with the library.

An example's labels are independent *cells*: the one class of a classified input, a class a position of a sequence,
an outcome an output of a Bernoulli or Gaussian model. Every Fisher here is

    F = mean over examples of Σ_k w_k (∂ s_k / ∂θ)²

with the pairs (w_k, s_k) of :func:`weighted_scores`: for exact labels one a cell and class, weighted by its
probability; otherwise one an example, the sum of the log-likelihoods of its cells, weighted by 1.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Scores = list[tuple[float, Tensor]]


@dataclass(frozen=True)
class Meaning:
    """What the outputs mean: categorical (last dimension = classes), causal, bernoulli or gaussian."""

    kind: str = "categorical"
    outputs: tuple[int, ...] | None = None
    variance: float = 1.0
    ignore_index: int = -100


def call(model: nn.Module, batch: Any, forward: Callable | None) -> tuple[Tensor, Tensor | None]:
    """Outputs and targets of one batch: a pair (inputs, targets), or a mapping with its "labels" among it."""
    batch = copy.deepcopy(batch)
    if forward is not None:
        return forward(model, batch)
    if isinstance(batch, Mapping):
        inputs, targets = {name: value for name, value in batch.items() if name != "labels"}, batch["labels"]
    else:
        inputs, targets = batch
    if isinstance(inputs, Mapping):
        outputs = model(**inputs)
    elif isinstance(inputs, tuple):
        outputs = model(*inputs)
    else:
        outputs = model(inputs)
    return getattr(outputs, "logits", outputs), targets


def cells(meaning: Meaning, outputs: Tensor, targets: Tensor) -> list[tuple[int, Tensor, Any]]:
    """One example's independent labels: (number of its uniform, logits of its classes or the one output, label)."""
    if meaning.outputs is not None:
        outputs = outputs[..., list(meaning.outputs)]
    if meaning.kind in ("bernoulli", "gaussian"):
        return list(zip(range(outputs.numel()), outputs.reshape(-1), targets.reshape(-1), strict=True))
    if meaning.kind == "causal":
        outputs, targets = outputs[:-1], targets[1:]
    rows, wanted = outputs.reshape(-1, outputs.shape[-1]), targets.reshape(-1).tolist()
    columns = list(range(rows.shape[1])) if meaning.outputs is None else list(meaning.outputs)
    return [(number, row, columns.index(label)) for number, (row, label) in enumerate(zip(rows, wanted, strict=True))
            if label != meaning.ignore_index]


def log_likelihood(meaning: Meaning, output: Tensor, label: Any) -> Tensor:
    """log p(label | output) of one cell, up to a constant."""
    if meaning.kind == "gaussian":
        return -((label - output) ** 2) / (2 * meaning.variance)
    if meaning.kind == "bernoulli":
        return label * output - torch.nn.functional.softplus(output)
    return output.log_softmax(-1)[label]


def draw(meaning: Meaning, output: Tensor, uniform: float) -> Any:
    """The label of one cell by the inverse of the cumulative distribution, in float64."""
    output = output.detach().double()
    if meaning.kind == "gaussian":
        normal = torch.special.ndtri(torch.tensor(uniform, dtype=torch.float64))
        return output + meaning.variance**0.5 * normal
    if meaning.kind == "bernoulli":
        return float(uniform < float(torch.sigmoid(output)))
    cumulative = output.softmax(-1).cumsum(-1).tolist()
    return next((c for c, bound in enumerate(cumulative) if uniform <= bound), len(cumulative) - 1)


def exact_scores(meaning: Meaning, output: Tensor) -> Scores:
    """The pairs of one cell whose weighted squares sum to its exact Fisher."""
    if meaning.kind == "gaussian":
        return [(1 / meaning.variance, output)]
    if meaning.kind == "bernoulli":
        p = float(torch.sigmoid(output.detach().double()))
        return [(p * (1 - p), output)]
    logs = output.log_softmax(-1)
    return [(float(logs[c].detach().double().exp()), logs[c]) for c in range(len(logs))]


def weighted_scores(
    model: nn.Module, example: Any, meaning: Meaning, labels: str, forward: Callable | None, uniforms: Any
) -> Scores:
    """The pairs (w, s) of one example, given as a batch of one."""
    outputs, targets = call(model, example, forward)
    assert len(outputs) == 1, "the oracle takes one example at a time"
    found = cells(meaning, outputs[0], targets[0])
    if labels == "exact":
        return [pair for _, output, _ in found for pair in exact_scores(meaning, output)]
    total = outputs.sum() * 0
    for number, output, label in found:
        chosen = draw(meaning, output, float(uniforms[number])) if labels == "sampled" else label
        total = total + log_likelihood(meaning, output, chosen)
    return [(1.0, total)]


def squared_gradients(scalar: Tensor, parameters: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """name -> (∂ scalar / ∂ parameter)² in float64; an unused parameter gives 0."""
    gradients = torch.autograd.grad(scalar, list(parameters.values()), retain_graph=True, allow_unused=True)
    for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True):
        yield name, (torch.zeros_like(parameter) if gradient is None else gradient).double() ** 2


def prepared(model: nn.Module) -> tuple[nn.Module, dict[str, Tensor]]:
    """A copy in eval mode, and its trainable parameters by name."""
    model = copy.deepcopy(model).eval()
    return model, {name: p for name, p in model.named_parameters() if p.requires_grad}


def fisher(
    model: nn.Module,
    examples: Sequence[Any],
    *,
    meaning: Meaning,
    labels: str = "exact",
    forward: Callable | None = None,
    uniforms: Sequence[Any] | None = None,
) -> dict[str, Tensor]:
    """F in float64 (gradients in the model's dtype): ``examples`` are batches of one."""
    model, parameters = prepared(model)
    total = {name: torch.zeros(p.shape, dtype=torch.float64) for name, p in parameters.items()}
    for position, example in enumerate(examples):
        drawn = None if uniforms is None else uniforms[position]
        for weight, score in weighted_scores(model, example, meaning, labels, forward, drawn):
            for name, square in squared_gradients(score, parameters):
                total[name] += weight * square
    return {name: value / len(examples) for name, value in total.items()}


def batched(
    model: nn.Module, batches: Sequence[Any], *, meaning: Meaning, forward: Callable | None = None
) -> dict[str, Tensor]:
    """Mean over batches of the square of the gradient of the batch-MEAN loss: what others call a Fisher (F1)."""
    model, parameters = prepared(model)
    total = {name: torch.zeros(p.shape, dtype=torch.float64) for name, p in parameters.items()}
    for batch in batches:
        outputs, targets = call(model, batch, forward)
        loss = outputs.sum() * 0
        for one, wanted in zip(outputs, targets, strict=True):
            for _, output, label in cells(meaning, one, wanted):
                loss = loss - log_likelihood(meaning, output, label) / len(outputs)
        for name, square in squared_gradients(loss, parameters):
            total[name] += square
    return {name: value / len(batches) for name, value in total.items()}


def finite_differences(
    model: nn.Module, examples: Sequence[Any], *, meaning: Meaning, labels: str, step: float = 1e-5
) -> dict[str, Tensor]:
    """The same F without autograd: every weight nudged up and down (exact and empirical labels)."""
    model, parameters = prepared(model)
    total = {name: torch.zeros(p.shape, dtype=torch.float64) for name, p in parameters.items()}

    def scores(example: Any) -> Scores:
        with torch.no_grad():
            return [(w, float(s)) for w, s in weighted_scores(model, example, meaning, labels, None, None)]

    for example in examples:
        weights = [weight for weight, _ in scores(example)]
        for name, parameter in parameters.items():
            flat, sums = parameter.data.view(-1), total[name].view(-1)
            for i in range(flat.numel()):
                kept = float(flat[i])
                flat[i] = kept + step
                above = scores(example)
                flat[i] = kept - step
                below = scores(example)
                flat[i] = kept
                sums[i] += sum(w * ((a - b) / (2 * step)) ** 2
                               for w, (_, a), (_, b) in zip(weights, above, below, strict=True))
    return {name: value / len(examples) for name, value in total.items()}


def linear_regression(inputs: Tensor, outputs: int, variance: float) -> dict[str, Tensor]:
    """y ~ N(Wx + b, variance): F of W[o, i] is mean x_i² / variance, of b[o] 1 / variance."""
    return {"weight": (inputs**2).mean(0).expand(outputs, -1) / variance,
            "bias": torch.full((outputs,), 1 / variance, dtype=inputs.dtype)}


def softmax_regression(inputs: Tensor, weight: Tensor, bias: Tensor) -> dict[str, Tensor]:
    """y ~ softmax(Wx + b): F of W[c, i] is mean p_c (1 − p_c) x_i², of b[c] mean p_c (1 − p_c)."""
    p = (inputs @ weight.T + bias).softmax(-1)
    spread = p * (1 - p)
    return {"weight": spread.T @ inputs**2 / len(inputs), "bias": spread.mean(0)}
