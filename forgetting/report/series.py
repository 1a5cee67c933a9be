"""The numbers behind the figures: means over seeds of curves, matrices and drift. No drawing here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
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
    found = [dict(zip(positions.tolist(), values, strict=True)) for positions, values in curves]
    values = np.array([[points[at] for at in common] for points in found])
    error = values.std(axis=0, ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.zeros(len(common))
    return Curve(np.array(common, dtype=float), values.mean(axis=0), error)


class Timeline:
    """Where every task begins on a common axis of steps, for all methods of an experiment.

    How long a task was is known as far as it was measured; where some model was kept that is not the one measured last
    (a few more steps, an average), every task is an interval longer. A task is as wide as the method with the fewest
    steps makes it; the others (joint training sees more data) are drawn to that width, and ``scaled`` says so.
    """

    def __init__(self, experiment: Experiment):
        runs = experiment.runs
        self.tasks = runs[0].tasks
        self.learned = range(2 if runs[0].pretrained else 1, len(self.tasks) + 1)
        cases = [(run, task) for run in runs for task in self.learned]
        more = max(int(run.recipe.get("every") or 1) for run in runs)
        self.extra = more if any(_goes_on(run, task) for run, task in cases) else 0
        lengths = {task: {self._length(run, task) for run in runs} for task in self.learned}
        measured = {task: {length for length in found if length > self.extra} for task, found in lengths.items()}
        self.width = {task: min(measured[task] or found) for task, found in lengths.items()}
        self.scaled = any(len(found) > 1 for found in measured.values())
        ends = np.cumsum([self.width[task] for task in self.learned]).tolist()
        self.start = dict(zip(self.learned, [0, *ends], strict=False))
        self.boundaries = ends[:-1]

    def curve(self, run: Result, value: Callable[[list[float], int], float | None]) -> tuple[Array, Array]:
        """A figure over the axis: before each task and after it from the matrix, inside it as measured.

        The figure is one of the accuracies on the run's tasks so far, in their order: names differ between seeds that
        deal the classes out differently.
        """
        points: dict[float, float] = {}
        for task in self.learned:
            own = self._length(run, task)
            inside = [(step["step"], step["accuracy"]) for step in run.steps if step["task"] == task]
            for step, accuracy in [(0, _row(run, task - 1)), *inside, (own, _row(run, task))]:
                found = value([accuracy[name] for name in run.tasks if name in accuracy], task)
                if found is not None:
                    points[round(self.start[task] + step * self.width[task] / own, 6)] = found
        return np.array(list(points), dtype=float), np.array(list(points.values()), dtype=float)

    def source(self, group: Group) -> Curve | None:
        """Accuracy on the source over steps."""
        def known(accuracy: list[float], _: int) -> float:
            return accuracy[0]

        return over_seeds(self.curve(run, known) for run in group.runs.values())

    def targets(self, group: Group) -> Curve | None:
        """Mean accuracy over steps on the tasks after the source, as far as they were begun."""
        def begun(accuracy: list[float], task: int) -> float | None:
            return float(np.mean(accuracy[1:task])) if task > 1 else None

        return over_seeds(self.curve(run, begun) for run in group.runs.values())

    def _length(self, run: Result, task: int) -> int:
        return max((step["step"] for step in run.steps if step["task"] == task), default=0) + self.extra


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
    gained = summary(back - now for back, now in zip(restored, after, strict=True))
    return {"before": summary(before), "after": summary(after), "restored": summary(restored), "gained": gained,
            "share": gained["mean"] / lost if lost > 0.005 else None}


def pull(group: Group) -> dict[str, Any]:
    """The penalty's pull relative to the task's gradient: median over a run's measurements, summarised over seeds."""
    ratios = [[entry["ratio"] for entry in run.penalties if entry["ratio"] is not None] for run in group.runs.values()]
    return summary(float(np.median(found)) for found in ratios if found)


def _row(run: Result, row: int) -> dict[str, float]:
    """A row of the accuracy matrix by the tasks' names."""
    return dict(zip(run.tasks, run.accuracy[row].tolist(), strict=True))


def _goes_on(run: Result, task: int) -> bool:
    """Whether the model kept after a task is another than the one measured last, or none was measured."""
    measured = [step for step in run.steps if step["task"] == task]
    end = _row(run, task)
    return not measured or any(end[name] != value for name, value in measured[-1]["accuracy"].items())


def _interpolated(run: Result, plain: Result | None, entries: Mapping[int, list[float]]) -> tuple[float, float] | None:
    """Adaptation and retention of one run at one amount, where both can be computed."""
    last = len(run.tasks)
    later = range(2, last + 1)
    if plain is None or last not in entries or not all(task in entries for task in later):
        return None
    known, learned = float(run.accuracy[1, 0]), [float(plain.accuracy[task, task - 1]) for task in later]
    if known <= 0 or min(learned) <= 0:
        return None
    shares = [entries[task][task - 1] / accuracy for task, accuracy in zip(later, learned, strict=True)]
    return float(np.mean(shares)), entries[last][0] / known
