"""Rates and settings for a pretrained model, chosen on validation data with a seed that no table reports."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.retention.candidates import CANDIDATES, FIRST_SEED, RATES
from forgetting import methods
from forgetting.protocol import Recipe, Result, Swept, metrics
from forgetting.tasks import TaskSequence

Sweep = Callable[[Sequence[Recipe], Sequence[int]], Swept]
CRITERION = ("rate: plain fine-tuning's accuracy on each target right after it was learned, mean over targets; all "
             "else: average accuracy over all tasks at the end, at that rate; both on validation data")


def on_validation(sequence: TaskSequence) -> TaskSequence:
    """The same sequence with the validation parts as tests: the tests are never touched."""
    hidden = [dataclasses.replace(task, test=task.validation, validation=task.validation.subset([]))
              for task in sequence]
    return dataclasses.replace(sequence, tasks=tuple(hidden))


def settle(plain: Recipe, kind: str, names: Sequence[str], sweep: Sweep, file: Path) -> dict[str, Any]:
    """The rate, and each method's settings; what ``file`` holds already is not chosen anew.

    Args:
        plain: plain fine-tuning on the sequence that will be reported; its rate is chosen here.
        kind: ``"vision"`` or ``"text"``.
        names: the methods.
        sweep: computes recipes with seeds.
        file: JSON, written after each choice.
    """
    hidden = dataclasses.replace(plain, sequence=on_validation(plain.sequence_of(FIRST_SEED)))
    found = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    about = {name: value for name, value in hidden.as_data().items() if name not in ("rate", "method", "device")}
    about["data"] = hidden.sequence_of(FIRST_SEED).fingerprint()
    if found and found.get("recipe") != about:
        raise ValueError(f"{file} was chosen for another recipe, or other data; take another --out")
    found = {"criterion": CRITERION, "seed": FIRST_SEED, "recipe": about, "settings": {}, "candidates": {}, **found}
    if "rate" not in found:
        rates = [(rate, dataclasses.replace(hidden, rate=rate)) for rate in RATES[kind]]
        found["rate"], found["candidates"]["rate"] = best(rates, sweep, learned_later)
        keep(file, found)
    for name in names:
        known = [entry["candidate"] for entry in found["candidates"].get(name, [])]
        if name not in CANDIDATES[kind] or known == list(CANDIDATES[kind][name]):
            continue
        tried = [(settings, dataclasses.replace(hidden, rate=found["rate"], method=methods.get(name, **settings)))
                 for settings in CANDIDATES[kind][name]]
        found["settings"][name], found["candidates"][name] = best(
            tried, sweep, lambda result: metrics.average_accuracy(result.accuracy))
        keep(file, found)
    return found


def learned_later(result: Result) -> float:
    """The mean accuracy on the targets, each right after it was learned."""
    return float(np.diagonal(result.accuracy[1:])[1:].mean())


def best(tried: Sequence[tuple[Any, Recipe]], sweep: Sweep,
         figure: Callable[[Result], float]) -> tuple[Any, list[dict[str, Any]]]:
    """The candidate of the greatest figure, of equals the first; and every candidate's figure, −1 where it diverged."""
    swept = sweep([recipe for _, recipe in tried], [FIRST_SEED])
    lost = {id(divergence.recipe) for divergence in swept.diverged}
    learned = iter(swept.results)
    table = [{"candidate": candidate, "score": -1.0 if id(recipe) in lost else round(figure(next(learned)), 4)}
             for candidate, recipe in tried]
    if len(lost) == len(tried):
        raise ValueError(f"every candidate diverged: {[candidate for candidate, _ in tried]}; take others")
    return max(table, key=lambda entry: entry["score"])["candidate"], table


def keep(file: Path, found: dict[str, Any]) -> None:
    """Write what was chosen so far, in one piece."""
    file.parent.mkdir(parents=True, exist_ok=True)
    begun = file.with_suffix(".part")
    begun.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    begun.replace(file)
