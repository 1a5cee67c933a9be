"""Exact labels at their price: a confident perceptron, with and without tolerance, and an unconfident CNN."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional

from benchmarks.speed import clock, error
from benchmarks.speed.measure import Entry, diagonal, forward_backward, load
from benchmarks.speed.models import CPU, Batch, Row
from forgetting import fisher

TOLERANCE = 1e-3
MUST = {"tolerance": 2.5, "error": 2e-3, "all": 6.5}
CLASSES, EPOCHS, BATCHES = 10, 25, 28
EXAMPLES = 64  # that the oracle sees


def confident(row: Row) -> tuple[nn.Module, list[Batch], Entry]:
    """The perceptron, trained on the digits scaled up to 28 × 28 pixels, with batches of those, and how sure it is."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
    inputs, targets = functional.interpolate(images, 28, mode="bilinear").flatten(1), torch.tensor(digits.target)
    model, generator = row.model().train(), torch.Generator().manual_seed(2)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(EPOCHS):
        for chosen in torch.randperm(len(inputs), generator=generator).split(128):
            optimizer.zero_grad()
            functional.cross_entropy(model(inputs[chosen]), targets[chosen]).backward()
            optimizer.step()
    model.eval()
    model.zero_grad(set_to_none=True)
    with torch.no_grad():
        p = model(inputs).softmax(-1)
    whole = len(inputs) // row.batch  # batches of full size, which then come again
    data = [(inputs[start : start + row.batch], targets[start : start + row.batch])
            for start in (row.batch * (number % whole) for number in range(BATCHES))]
    return model, data, {"train_accuracy": float((p.argmax(-1) == targets).float().mean()),
                         "mean_largest_probability": float(p.amax(-1).mean())}


def class_backwards(model: nn.Module, data: list[Batch]) -> Callable[[], None]:
    """A backward a class on one graph: what exact labels cost where nothing is saved, before any squaring."""
    parameters = list(model.parameters())

    def run() -> None:
        for inputs, _ in data:
            scores = model(inputs).log_softmax(-1).sum(0)
            for c in range(CLASSES):
                torch.autograd.grad(scores[c], parameters, retain_graph=c + 1 < CLASSES)
    return run


def beginning(data: list[Batch]) -> Batch:
    """The examples that errors are measured on."""
    inputs, targets = data[0]
    return inputs[:EXAMPLES], targets[:EXAMPLES]


def _compared(row: Row, model: nn.Module, data: list[Batch], tolerances: tuple[float, ...], rounds: int) -> Entry:
    """Times ÷ forward+backward and ÷ a backward a class, and errors on the first examples, a tolerance."""
    candidates = {"forward+backward": forward_backward(row, model, data),
                  "class backwards": class_backwards(model, data)}
    calls = {f"{t:g}": diagonal(row, model, data, labels="exact", tolerance=t) for t in tolerances}
    times = clock.interleave({**candidates, **calls}, rounds)
    first = beginning(data)
    truth = error.oracle(row, model, first, "exact")
    found = {}
    for t in tolerances:
        estimate = fisher.diagonal(model, [first], labels="exact", tolerance=t)
        above = max(float((estimate[name].double() - value).max()) for name, value in truth.items())
        found[f"{t:g}"] = {
            "time": clock.ratio(times, f"{t:g}", "forward+backward"),
            "to_class_backwards": clock.ratio(times, f"{t:g}", "class backwards"),
            "error": error.relative(estimate, truth), "largest_excess": above,
            "finite": all(bool(value.isfinite().all()) for value in estimate.values())}
    return {"title": row.title, "rounds": rounds, "batches": len(data), "tolerances": found,
            "class_backwards": clock.ratio(times, "class backwards", "forward+backward"), "load": load()}


def perceptron(rounds: int | None = None) -> Entry:
    """The confident perceptron at tolerance 0 and 1e-3."""
    row = CPU["mlp"]
    model, data, sure = confident(row)
    return {**_compared(row, model, data, (0.0, TOLERANCE), rounds or row.rounds), **sure}


def convolutions(rounds: int | None = None) -> Entry:
    """The CNN with random weights, whose predictive is nearly uniform."""
    row = CPU["cnn"]
    return _compared(row, row.model(), row.data(8), (0.0, TOLERANCE), rounds or row.rounds)


ENTRIES = {"mlp-confident": perceptron, "cnn-unconfident": convolutions}
