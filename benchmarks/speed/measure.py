"""What is timed, and what is kept of it: an entry of the results file a function, each run in a process of its own."""

from __future__ import annotations

import os
from collections.abc import Callable

import torch
from torch import nn

from benchmarks.speed import clock, error, memory
from benchmarks.speed.accelerated import CUDA
from benchmarks.speed.models import CPU, Batch, Row
from forgetting import fisher

Entry = dict[str, object]
ROWS = {"cpu": CPU, "cuda": CUDA}
STREAM = 4  # batches whose peak memory is compared with that of one


def forward_backward(row: Row, model: nn.Module, data: list[Batch]) -> Callable[[], None]:
    """The baseline: the summed loss of every batch and its gradients, in eval mode, gradients None."""
    def run() -> None:
        for inputs, targets in data:
            row.loss(model(inputs), targets).backward()
            model.zero_grad(set_to_none=True)
    return run


def diagonal(row: Row, model: nn.Module, data: list[Batch], **options: object) -> Callable[[], fisher.Diagonal]:
    """The library's estimate over the same batches."""
    likelihood = fisher.CausalLanguageModel() if row.causal else None
    given = {"labels": "empirical", "likelihood": likelihood, **options}
    return lambda: fisher.diagonal(model, data, **given)


def load() -> float:
    """How busy the machine was, in runnable processes over the last minute: 2 threads of ours are 2 of them."""
    return round(os.getloadavg()[0], 2)


def empirical(row: Row, device: str, rounds: int | None = None) -> Entry:
    """Time ÷ forward+backward over a data set and over one batch; error; which rules computed it."""
    rounds = rounds or row.rounds
    model, data = row.model(device), row.data(device=device)
    times = clock.interleave({
        "forward+backward": forward_backward(row, model, data), "diagonal": diagonal(row, model, data),
        "one batch": diagonal(row, model, data[:1])}, rounds, device)
    baseline = clock.spread([taken / len(data) for taken in times["forward+backward"]])
    routes = diagonal(row, model, row.data(1, device, batch=min(row.batch, 2)))().routes
    return {
        "title": row.title, "must": row.must, "aim": row.aim, "memory_must": row.memory,
        "time": clock.ratio(times, "diagonal", "forward+backward"),
        "time_of_one_batch": clock.ratio(times, "one batch", "forward+backward", len(data)),
        "forward_backward_seconds": baseline["median"], "batches": len(data), "rounds": rounds,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "routes": {kind: list(routes.values()).count(kind) for kind in sorted(set(routes.values()))},
        "error": errors(row, device), "load": load()}


def errors(row: Row, device: str) -> Entry:
    """The estimate's and the float32 loop's distance from the float64 loop, on the first examples.

    ``float64``: the estimate's own in double precision, where no rounding tips a ReLU's input over its kink.
    """
    model, data = row.model(device), row.data(1, device, batch=row.examples)
    truth, loop = error.references(row, row.model(), row.data(1, batch=row.examples)[0])
    found = error.relative(diagonal(row, model, data)(), truth)
    double = diagonal(row, model.double(), [error.cast(batch, torch.float64) for batch in data])()
    return {**found, "loop": loop, "allowed": error.allowed(row, loop), "examples": row.examples,
            "float64": error.relative(double, truth)["worst"]}


def peaks(row: Row, device: str, what: str) -> Entry:
    """Peak bytes of one candidate, after a call that does not count."""
    model = row.model(device)
    data = row.data(STREAM if what == "stream" else 1, device)
    make = forward_backward if what == "forward+backward" else diagonal
    call = make(row, model, data)
    call()
    model.zero_grad(set_to_none=True)
    return {"bytes": memory.peak(call, device), "parameter_bytes": sum(
        parameter.numel() * parameter.element_size() for parameter in model.parameters())}


def prepare(device: str, threads: int) -> None:
    """What holds for a whole process."""
    torch.set_num_threads(threads)
    if device == "cuda" and not torch.cuda.is_available():
        raise RuntimeError("there is no CUDA device here")
