"""The numbers behind the figures: means over seeds of curves, matrices and drift. No drawing here."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from forgetting.protocol import Result
from forgetting.report.groups import Experiment, Group
from forgetting.report.rows import summary

Array = np.ndarray


@dataclass(frozen=True, eq=False)
class Curve:
    """Means over seeds, [k], and standard errors (0 for one seed), at positions."""

    positions: Array
    mean: Array
    error: Array


def mean_matrix(group: Group) -> Array:
    """The mean accuracy matrix over seeds, [N + 1, N]."""
    return np.mean([run.accuracy for run in group.runs.values()], axis=0)


def over_seeds(curves: Iterable[tuple[Array, Array]]) -> Curve | None:
    """The mean of (positions, values) pairs where all of them have a value; None without a common position."""
    curves = list(curves)
    common = sorted(set.intersection(*(set(positions.tolist()) for positions, _ in curves)))
    if not common:
        return None
    values = np.array([[dict(zip(positions.tolist(), found))[at] for at in common] for positions, found in curves])
    error = values.std(axis=0, ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.zeros(len(common))
    return Curve(np.array(common, dtype=float), values.mean(axis=0), error)


class Timeline:
    """Where every task begins on a common axis of steps, for all methods of an experiment.

    A task takes as many steps as the method with the fewest measured ones; the measurements of the others (joint
    training sees more data) are drawn to that width, and ``scaled`` says so.
    """

    def __init__(self, experiment: Experiment):
        runs = experiment.runs
        first = runs[0]
        self.tasks = first.tasks
        self.learned = range(2 if first.pretrained else 1, len(first.tasks) + 1)
        lengths = [{task: _length(run, task) for task in self.learned} for run in runs]
        self.length = {task: min(length[task] for length in lengths) for task in self.learned}
        self.scaled = any(length[task] != self.length[task] for length in lengths for task in self.learned)
        ends = np.cumsum([self.length[task] for task in self.learned]).tolist()
        self.start = dict(zip(self.learned, [0, *ends]))
        self.boundaries = ends[:-1]

    def curve(self, run: Result, value: Callable[[dict[str, float], int], float | None]) -> tuple[Array, Array]:
        """A figure over the axis: before each task and after it from the matrix, inside it as measured."""
        points: dict[float, float] = {}
        for task in self.learned:
            own = _length(run, task)
            inside = [(step["step"], step["accuracy"]) for step in run.steps if step["task"] == task]
            whole = [(0, _row(run, task - 1)), *inside, (own, _row(run, task))]
            for step, accuracy in whole:
                found = value(accuracy, task)
                if found is not None:
                    points[round(self.start[task] + step * self.length[task] / own, 6)] = found
        return np.array(list(points), dtype=float), np.array(list(points.values()), dtype=float)

    def source(self, group: Group) -> Curve | None:
        """Accuracy on the source over steps."""
        return over_seeds(self.curve(run, lambda accuracy, task: accuracy[run.tasks[0]]) for run in group.runs.values())

    def targets(self, group: Group) -> Curve | None:
        """Mean accuracy over steps on the tasks after the source, as far as they were begun."""
        def begun(accuracy: dict[str, float], task: int) -> float | None:
            names = self.tasks[1:task]
            return float(np.mean([accuracy[name] for name in names])) if names else None

        return over_seeds(self.curve(run, begun) for run in group.runs.values())


def interpolation(group: Group) -> list[dict[str, Any]]:
    """WiSE-FT's curve: for each amount the mean retention and adaptation over seeds; empty where there is none.

    The adaptation at an amount is measured right after each task, the retention after the last one.
    """
    baseline = group.baseline or {}
    found: dict[float, list[tuple[float, float]]] = {}
    for seed, run in group.runs.items():
        by_task: dict[float, dict[int, list[float]]] = {}
        for entry in run.curve:
            by_task.setdefault(entry["amount"], {})[entry["task"]] = entry["accuracy"]
        for amount, entries in by_task.items():
            point = _interpolated(run, baseline.get(seed), entries)
            if point is not None:
                found.setdefault(amount, []).append(point)
    means = {amount: np.mean(points, axis=0) for amount, points in sorted(found.items())}
    return [{"amount": amount, "adaptation": float(x), "retention": float(y)} for amount, (x, y) in means.items()]


def drift(group: Group) -> dict[str, float]:
    """Layer -> mean relative change of its weight over seeds (of its other parameters where it has no weight)."""
    layers: dict[str, dict[str, float]] = {}
    for run in group.runs.values():
        for name, value in run.drift.items():
            layer, _, parameter = name.rpartition(".")
            layers.setdefault(layer or parameter, {}).setdefault(parameter, 0.0)
            layers[layer or parameter][parameter] += value / len(group.runs)
    return {layer: found["weight"] if "weight" in found else float(np.mean(list(found.values())))
            for layer, found in layers.items()}


def norm_statistics(group: Group) -> dict[str, Any] | None:
    """What the running statistics of norm layers cost the source; None for models without them.

    ``share`` is (with old statistics − after) / (before − after), of the means; None where nothing was lost.
    """
    runs = [run for run in group.runs.values() if run.restored is not None]
    if not runs:
        return None
    before, after = [float(run.accuracy[1, 0]) for run in runs], [float(run.accuracy[-1, 0]) for run in runs]
    restored = [float(run.restored) for run in runs if run.restored is not None]
    lost = float(np.mean(before) - np.mean(after))
    gained = summary(back - now for back, now in zip(restored, after))
    return {"before": summary(before), "after": summary(after), "restored": summary(restored), "gained": gained,
            "share": gained["mean"] / lost if lost > 0.005 else None}


def pull(group: Group) -> dict[str, Any]:
    """The penalty's pull relative to the task's gradient: median over a run's measurements, summarised over seeds."""
    ratios = [[entry["ratio"] for entry in run.penalties if entry["ratio"] is not None] for run in group.runs.values()]
    return summary(float(np.median(found)) for found in ratios if found)


def _row(run: Result, row: int) -> dict[str, float]:
    return dict(zip(run.tasks, run.accuracy[row].tolist()))


def _length(run: Result, task: int) -> int:
    """Steps of a task as far as they are known: the last measured one, and one interval more where it was not the end."""
    every = int(run.recipe.get("every") or 1)
    measured = [step for step in run.steps if step["task"] == task]
    if not measured:
        return every
    last, end = measured[-1], _row(run, task)
    at_end = all(end[name] == value for name, value in last["accuracy"].items())
    return last["step"] if at_end else last["step"] + every


def _interpolated(run: Result, plain: Result | None, entries: dict[int, list[float]]) -> tuple[float, float] | None:
    """Adaptation and retention of one run at one amount, where both can be computed."""
    last = len(run.tasks)
    later = range(2, last + 1)
    if plain is None or last not in entries or not all(task in entries for task in later):
        return None
    known, learned = float(run.accuracy[1, 0]), [float(plain.accuracy[task, task - 1]) for task in later]
    if known <= 0 or min(learned) <= 0:
        return None
    shares = [entries[task][task - 1] / accuracy for task, accuracy in zip(later, learned)]
    return float(np.mean(shares)), entries[last][0] / known
