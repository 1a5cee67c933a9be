"""What a penalty costs beside a training step: ``python -m benchmarks.speed.penalty --out FILE``.

A plain step is forward, backward on the mean loss and SGD without momentum, in train mode, gradients None before it. A
penalty alone is its value and its gradient: ``loss`` by ``penalty(model).backward()``, ``gradient`` as
``attach(mode="gradient")`` adds it to gradients that are there. Beside them: the same merged matrix by ``_foreach``
operations under autograd, a loop over the tasks' own matrices, and the floor, which is reading weights, anchor and
importance once and writing the gradient once, each measured as a plain sum and a plain fill of as many numbers.

Where other work shares the cores, set ``OMP_WAIT_POLICY=passive``, or threads that wait count as if they worked.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import click
import torch
from torch import Tensor, nn

from benchmarks.speed import clock
from benchmarks.speed.measure import Entry, load
from benchmarks.speed.models import CPU, Row
from benchmarks.speed.store import Store, environment
from forgetting.curvature import Diagonal
from forgetting.regularizers import EWC
from forgetting.regularizers.pulls import add_pull
from forgetting.regularizers.steps import Step

TASKS, LOOPS, ROUNDS, MUST = (1, 5, 50), (1, 5), 9, 0.02
NAMES = ("resnet18-32", "bert")
Tensors = dict[str, Tensor]


def importances(model: nn.Module, seed: int) -> Tensors:
    """Importances over twelve orders of magnitude."""
    generator = torch.Generator().manual_seed(seed)
    return {name: 10 ** (-12 * torch.rand(weight.shape, generator=generator))
            for name, weight in model.named_parameters()}


def wander(model: nn.Module, seed: int) -> None:
    """Move every weight a little, as a task does."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(1e-3 * torch.randn(weight.shape, generator=generator))


def consolidated(model: nn.Module, tasks: int, **settings: str) -> EWC:
    """EWC after some tasks, each with its own anchor unless the settings say otherwise."""
    ewc = EWC(1e-3, **settings)
    for task in range(tasks):
        ewc.consolidate(model, curvature=Diagonal(importances(model, task)))
        wander(model, task)
    return ewc


def step(row: Row, model: nn.Module) -> Callable[[], None]:
    """The plain step."""
    inputs, targets = row.data(1)[0]
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)

    def run() -> None:
        optimizer.zero_grad()
        row.loss(model(inputs), targets, "mean").backward()
        optimizer.step()
        optimizer.zero_grad()
    return run


def alone(model: nn.Module, penalty: Callable[[], Tensor]) -> Callable[[], None]:
    """Value and gradient of a penalty, by autograd."""
    def run() -> None:
        penalty().backward()
        model.zero_grad()
    return run


def added(model: nn.Module, ewc: EWC) -> Callable[[], None]:
    """The pull, added to gradients that are there."""
    kept = [(weight, torch.zeros_like(weight)) for weight in model.parameters()]
    only = Step(torch.optim.SGD(model.parameters(), lr=1e-6))

    def run() -> None:
        for weight, gradient in kept:
            weight.grad = gradient
        with torch.no_grad():
            add_pull(only, ewc.consolidated, dict(model.named_parameters()), ewc.strength)
        model.zero_grad()
    return run


def by_foreach(model: nn.Module, importance: Tensors, anchor: Mapping[str, Tensor]) -> Tensor:
    """One merged matrix, by operations over lists."""
    names, weights = list(importance), dict(model.named_parameters())
    deltas = torch._foreach_sub([weights[name] for name in names], [anchor[name] for name in names])
    terms = torch._foreach_mul(torch._foreach_mul(deltas, [importance[name] for name in names]), deltas)
    return 0.5e-3 * torch.stack([term.sum() for term in terms]).sum()


def by_loop(model: nn.Module, tasks: list[tuple[Tensors, Tensors]]) -> Tensor:
    """One penalty a task and parameter."""
    weights = dict(model.named_parameters())
    return sum((0.5e-3 * (importance[name] * (weights[name] - anchor[name]).square()).sum()
                for importance, anchor in tasks for name in weights), torch.zeros(()))


def floor(count: int) -> dict[str, Callable[[], object]]:
    """Reading three numbers a weight, and writing one into memory that is there."""
    read, written = torch.rand(3, count), torch.empty(count)
    return {"read": lambda: [part.sum() for part in read], "write": lambda: written.fill_(1.0)}


def measured(name: str, rounds: int | None) -> Entry:
    """All of it, as time ÷ the plain step's."""
    row, rounds = CPU[name], rounds or ROUNDS
    model = row.model().train()
    count = sum(weight.numel() for weight in model.parameters())
    candidates: dict[str, Callable[[], object]] = {"step": step(row, model), **floor(count)}
    for tasks in TASKS:
        ewc = consolidated(model, tasks, anchors="separate")
        candidates |= {f"loss, {tasks}": alone(model, partial(ewc.penalty, model)),
                       f"gradient, {tasks}": added(model, ewc)}
    for storage in ("bfloat16", "int8"):
        short = consolidated(model, 1, storage=storage)
        candidates |= {f"loss, {storage}": alone(model, partial(short.penalty, model)),
                       f"gradient, {storage}": added(model, short)}
    own = [(importances(model, task), {name: weight.detach().clone() for name, weight in model.named_parameters()})
           for task in range(max(LOOPS))]
    wander(model, 0)
    candidates["foreach"] = alone(model, partial(by_foreach, model, *own[0]))
    candidates |= {f"loop, {tasks}": alone(model, partial(by_loop, model, own[:tasks])) for tasks in LOOPS}
    times = clock.interleave(candidates, rounds)
    seconds = {name: clock.spread(taken) for name, taken in times.items()}
    return {"title": row.title, "weights": count, "rounds": rounds, "load": load(), "must": MUST,
            "waiting": os.environ.get("OMP_WAIT_POLICY", "active"), "seconds": seconds,
            "bytes_a_second": round(12 * count / seconds["read"]["median"]),
            "time": {other: clock.ratio(times, other, "step") for other in times if other != "step"}}


def table(entries: Mapping[str, Mapping]) -> str:
    """Percent of a plain step: median and quartiles."""
    columns = [f"{mode}, {tasks}" for mode in ("loss", "gradient") for tasks in TASKS]
    columns += ["read", "write", "foreach", *(f"loop, {tasks}" for tasks in LOOPS), "loss, int8"]
    rows = [["% of a step", *columns], ["---"] * (len(columns) + 1)]
    for entry in entries.values():
        cells = ["{:.2f} ({:.2f}–{:.2f})".format(*(100 * found[part] for part in ("median", "lower", "upper")))
                 if (found := entry.get("time", {}).get(column)) else "–" for column in columns]
        rows.append([entry.get("title", "?"), *cells])
    return "".join("| " + " | ".join(row) + " |\n" for row in rows)


def missing(name: str) -> list[str]:
    """Packages that the row needs and that are not installed."""
    return CPU[name].missing()


ENTRIES = {name: partial(measured, name) for name in NAMES}


@click.command()
@click.option("--out", type=click.Path(path_type=Path), required=True, help="the JSON to write")
@click.option("--threads", default=2, show_default=True)
@click.option("--rounds", type=int, default=None)
@click.option("--only", type=click.Choice(NAMES), multiple=True, default=NAMES)
def main(out: Path, threads: int, rounds: int | None, only: tuple[str, ...]) -> None:
    """Measure, and write ratios with their environment."""
    torch.set_num_threads(threads)
    store = Store(out, environment("cpu", threads), fresh=True)
    for name in only:
        store.add(f"penalty/{name}", ENTRIES[name](rounds))
    click.echo(table({key.partition("/")[2]: entry for key, entry in store.entries.items()}))


if __name__ == "__main__":
    main()
