"""What an estimate and the penalty after it will take, before it is computed: ``forgetting fisher … --dry-run``."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterable, Sequence, Sized
from dataclasses import dataclass
from typing import Any

from rich import filesize
from rich.table import Table
from torch import nn

from forgetting.cli.console import console
from forgetting.fisher.batches import count
from forgetting.parameters import named
from forgetting.regularizers import EWC

STORAGES = ("float32", "bfloat16", "int8")


def bytes_of(model: nn.Module, parameters: Sequence[str] | None = None) -> dict[str, int]:
    """Bytes of the model, of the estimate's file, and of what EWC keeps while training, by how it is stored.

    Args:
        model: on any device, ``meta`` too: nothing is allocated.
        parameters: patterns of those that are estimated; all trainable ones without.
    """
    tensors = itertools.chain(model.parameters(), model.buffers())
    found = {"model": sum(tensor.numel() * tensor.element_size() for tensor in tensors)}
    covered = named(model, parameters)
    sums = sum(value.numel() * max(value.element_size(), 4) for value in covered.values())  # float32 at least
    found["file"] = sums + sum(value.numel() * value.element_size() for value in covered.values())
    for storage in STORAGES:
        kept = EWC(1.0, parameters=parameters, storage=storage).memory(model)
        found[f"EWC, {storage}"] = sum(kept.values())
    return found


@dataclass(frozen=True)
class Plan:
    """What will be estimated.

    Args:
        curvature: ``"diagonal"`` or ``"kronecker"``.
        labels: whose.
        examples: how many; None for all.
        early: whether it may stop before them.
    """

    curvature: str
    labels: str
    examples: int | None
    early: bool


def show(model: nn.Module, parameters: Sequence[str] | None, plan: Plan, data: Callable[[], Iterable[Any]],
         estimate: Callable[[Iterable[Any]], object]) -> None:
    """Print them, and the time that the first batch took times the number of batches."""
    covered = named(model, parameters)
    weights = sum(value.numel() for value in covered.values())
    table = Table.grid(padding=(0, 2))
    table.add_row("parameters", f"{len(covered)}, {weights:,} weights")
    passes = "one a class, and position, of each batch" if plan.labels == "exact" else "one a batch"
    table.add_row("backward passes", passes)
    names = {"model": "the model", "file": "the file, and the estimate while it is made"}
    for name, size in bytes_of(model, parameters).items():
        if name == "model" or plan.curvature == "diagonal":
            table.add_row(names.get(name, f"kept while training: {name}"), filesize.decimal(size))
    if plan.curvature != "diagonal":
        table.add_row("the file, kept while training",
                      "not known: factors take inputs² + outputs² of each layer, in float32 at least")
    if any(parameter.is_meta for parameter in model.parameters()):
        table.add_row("time, activations", "not known: the model is on the meta device")
    else:
        table.add_row("time", _timed(data(), estimate, plan))
    console.print(table)


def _timed(batches: Iterable[Any], estimate: Callable[[Iterable[Any]], object], plan: Plan) -> str:
    """The seconds of the whole, from the second of two batches: the first also looks for the closed forms."""
    two = list(itertools.islice(iter(batches), 2))
    seconds = 0.0
    for batch in two:
        began = time.perf_counter()
        estimate([batch])
        seconds = time.perf_counter() - began
    if not two:
        raise ValueError("the data holds no batch, so there is nothing to estimate from")
    needed = math.inf if plan.examples is None else math.ceil(plan.examples / count(two[0]))
    held = len(batches) if isinstance(batches, Sized) else math.inf
    if min(needed, held) == math.inf:
        return f"{seconds:.3g} s a batch; how many there are is not known"
    number = int(min(needed, held))
    about = "at most" if plan.early else "about"
    return f"{about} {seconds * number:.3g} s: {number} batch{'es' * (number > 1)} of {seconds:.3g} s"
