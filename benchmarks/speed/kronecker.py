"""Kronecker factors at their price: K-FAC and EK-FAC with empirical labels on the rows of the promise.

Eigenvectors cost the third power of a layer's sides, whatever the data: EK-FAC is timed where no side is above
``LARGEST``, and its trace is held against the sum of the diagonal.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from benchmarks.speed import clock
from benchmarks.speed.measure import Entry, diagonal, forward_backward, load
from benchmarks.speed.models import CPU, Batch, Row
from forgetting import fisher

LARGEST = 1600
BATCHES, ROUNDS = 2, 3


def factors(row: Row, model: nn.Module, data: list[Batch], approximation: str) -> Callable[[], object]:
    """The library's estimate."""
    likelihood = fisher.CausalLanguageModel() if row.causal else None
    return lambda: fisher.kronecker(model, data, approximation=approximation, labels="empirical", likelihood=likelihood)


def side(model: nn.Module) -> int:
    """The longest side of any weight as a matrix, look-ups apart: their factor is diagonal."""
    looked_up = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    return max(max(len(weight), weight[0].numel()) for weight in model.parameters()
               if weight.ndim > 1 and id(weight) not in looked_up)


def measured(name: str, rounds: int | None) -> Entry:
    """Time ÷ forward+backward of K-FAC, and of EK-FAC where its eigenvectors can be had in reasonable time."""
    row, rounds = CPU[name], rounds or ROUNDS
    model, data = row.model(), row.data(BATCHES)
    candidates = {"forward+backward": forward_backward(row, model, data), "kfac": factors(row, model, data, "kfac")}
    longest = side(model)
    if longest <= LARGEST:
        candidates["ekfac"] = factors(row, model, data, "ekfac")
    times = clock.interleave(candidates, rounds)
    entry: Entry = {"title": row.title, "batches": BATCHES, "rounds": rounds, "longest_side": longest,
                    "time": clock.ratio(times, "kfac", "forward+backward"), "load": load()}
    if "ekfac" in candidates:
        trace = float(candidates["ekfac"]().trace())
        whole = float(torch.stack([value.double().sum() for value in diagonal(row, model, data)().values()]).sum())
        entry |= {"ekfac": clock.ratio(times, "ekfac", "forward+backward"), "trace_error": abs(trace / whole - 1)}
    return entry


def missing(name: str) -> list[str]:
    """Packages that the row needs and that are not installed."""
    return CPU[name].missing()


ENTRIES = {name: partial(measured, name) for name in CPU} if hasattr(fisher, "kronecker") else {}
