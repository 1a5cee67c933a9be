"""What each method adds to a training step of ResNet-18 at 32 px.

A plain step is forward, backward on the mean loss and SGD, in train mode. ``whole`` is the same step with the method,
its penalty in the loss or its hooks on the optimizer; ``added`` is what the method does on its own, its penalty's value
and gradient and its hooks, without the forward and backward pass beside it, so that differences of a hundredth show.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import nn

from benchmarks.speed import clock
from benchmarks.speed.measure import Entry, load
from benchmarks.speed.models import CPU
from forgetting import methods
from forgetting.protocol import Method
from forgetting.protocol.train import term
from forgetting.regularizers import QuadraticRegularizer, Regularizer
from forgetting.regularizers.path import PathRegularizer
from forgetting.rehearsal import Rehearsal

ROW, ROUNDS, EXAMPLES = "resnet18-32", 7, 8
MUST = {"pull": 0.02, "path": 0.06, "pass": 0.05}  # of a step; beyond one extra forward pass for the last


def acting() -> dict[str, Method]:
    """The methods whose regularizer acts on a step of the model as it is."""
    found = {name: methods.get(name) for name in methods.names()}
    return {name: method for name, method in found.items() if method.regularizer and not method.prepare}


def kind(regularizer: Regularizer) -> str:
    """What a step is held to."""
    if isinstance(regularizer, PathRegularizer):
        return "path"
    if isinstance(regularizer, Rehearsal):
        return "rehearsal"
    return "pull" if isinstance(regularizer, QuadraticRegularizer) else "pass"


def ready(method: Method, model: nn.Module, inputs: torch.Tensor, targets: torch.Tensor) -> Regularizer:
    """Its regularizer, after a task; path integrals listened to one step of it."""
    assert method.regularizer is not None
    regularizer = method.regularizer()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    with regularizer.attach(model, optimizer, mode=method.mode):
        nn.functional.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
        optimizer.zero_grad()
    regularizer.consolidate(model, [(inputs, targets)])
    return regularizer


def measured(name: str, rounds: int | None) -> Entry:
    """One method's step and what it adds, as time ÷ the plain step's."""
    row, method = CPU[ROW], acting()[name]
    model = row.model().train()
    inputs, targets = row.data(1)[0]
    regularizer = ready(method, model, inputs[:EXAMPLES], targets[:EXAMPLES])
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)
    answers = model(inputs).detach()

    def step(*, held: bool) -> None:
        optimizer.zero_grad()
        outputs = model(inputs)
        loss = row.loss(outputs, targets, "mean")
        if held and method.mode == "loss":
            loss = loss + term(regularizer, model, inputs, outputs, targets)
        loss.backward()
        optimizer.step()

    def alone() -> None:
        if method.mode == "loss":
            penalty = term(regularizer, model, inputs, answers.clone().requires_grad_(), targets)
            if penalty.requires_grad:
                penalty.backward()
        optimizer.step()

    def with_it(function: Callable[[], None]) -> Callable[[], None]:
        def run() -> None:
            with regularizer.attach(model, optimizer, mode=method.mode):
                function()
        return run

    def forward() -> None:
        with torch.no_grad():
            model(inputs)

    times = clock.interleave({"step": partial(step, held=False), "whole": with_it(partial(step, held=True)),
                              "alone": with_it(alone), "update": optimizer.step, "forward": forward}, rounds or ROUNDS)
    times["added"] = [max(0.0, own - update) for own, update in zip(times["alone"], times["update"], strict=True)]
    return {"title": name, "kind": kind(regularizer), "mode": method.mode, "rounds": rounds or ROUNDS, "load": load(),
            **{part: clock.ratio(times, part, "step") for part in ("whole", "added", "forward")}}


def holds(entry: Mapping) -> bool:
    """Whether a method's step costs no more than it must; nothing is asked of rehearsal, which learns twice."""
    if entry["kind"] == "rehearsal":
        return True
    if entry["kind"] == "pass":
        return entry["whole"]["median"] <= 1 + entry["forward"]["median"] + MUST["pass"]
    return entry["added"]["median"] <= MUST[entry["kind"]]


def table(entries: Mapping[str, Mapping]) -> str:
    """A row a method."""
    rows = [["method", "mode", "kind", "step ÷ plain step", "added, % of a step", "one forward pass, %", "must"],
            ["---"] * 7]
    for entry in entries.values():
        if "kind" not in entry:
            rows.append([entry.get("title", "?"), *["–"] * 5, str(entry.get("exception", "crash"))])
            continue
        must = {"pass": "1 + a forward pass + 5 %", "rehearsal": "–"}.get(
            entry["kind"]) or f"{100 * MUST[entry['kind']]:.0f} %"
        rows.append([entry["title"], entry["mode"], entry["kind"], "{median:.2f} ({lower:.2f}–{upper:.2f})".format(
            **entry["whole"]), f"{100 * entry['added']['median']:.1f}", f"{100 * entry['forward']['median']:.0f}",
            must if must == "–" else f"{must} {'✓' if holds(entry) else '✗'}"])
    return "".join("| " + " | ".join(row) + " |\n" for row in rows)


def missing(_: str) -> list[str]:
    """Packages that the row needs and that are not installed."""
    return CPU[ROW].missing()


ENTRIES = {name: partial(measured, name) for name in acting()}
