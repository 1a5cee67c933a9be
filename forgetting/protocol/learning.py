"""One run while it goes on: the model, what was measured so far, and how one task more is learned."""

from __future__ import annotations

import contextlib
import copy
import datetime as dt
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from forgetting.curvature import NotFinite
from forgetting.protocol.equipment import Moments, equipped, new_optimizer, recall, remembered
from forgetting.protocol.logbook import Diverged, Logbook
from forgetting.protocol.measure import (
    Peak,
    clock,
    drift,
    placed,
    provenance,
    put_back,
    running_statistics,
    weights_fingerprint,
)
from forgetting.protocol.method import Situation
from forgetting.protocol.monitor import Monitor
from forgetting.protocol.recipe import DTYPES, Recipe, derive, seeded
from forgetting.protocol.result import Result, packed
from forgetting.protocol.train import Lesson, train, without_denormals


class Learning:
    """A recipe and a seed brought to life. Tasks are numbered from 1.

    Args:
        recipe: what is to be run.
        seed: of the run.
        observe: receives events.
    """

    def __init__(self, recipe: Recipe, seed: int, observe: Callable[[dict[str, Any]], None]) -> None:
        self.recipe, self.seed, self.observe = recipe, seed, observe
        sequence = recipe.sequence_of(seed)
        self.sequence = placed(sequence, recipe.device, DTYPES[recipe.dtype])
        self.model = recipe.model_of(sequence, seed)
        if not self.model.training:
            self.model.train()  # a pretrained model comes in eval mode; single modules in eval mode stay so
        self.fingerprint = sequence.fingerprint()
        if callable(recipe.network):
            self.fingerprint += weights_fingerprint(self.model)
        self.key = recipe.key(seed, self.fingerprint)
        self.parts = recipe.method.parts
        self.regularizers = {part.name: part.regularizer() for part in self.parts if part.regularizer}
        self.learned = 0
        self.moments: Moments = {}
        self.pretraining: dict[str, Any] = {}
        self.trained: list[dict[str, Any]] = []
        self.figures: dict[str, Any] = {
            "accuracy": [], "validation": [], "correct": [], "steps": [], "penalties": [], "curve": [],
            "seconds_training": 0.0, "seconds_consolidation": 0.0, "peak_bytes": 0,
        }

    def begin(self) -> None:
        """Take the model as given: row 0, and row 1 where the source is known already."""
        self.given = copy.deepcopy(self.model.state_dict())
        self.statistics = running_statistics(self.model)
        self._measure(0)
        if self.sequence.pretrained:
            self.learned = 1
            self._measure(1)

    def pretrain(self, key: str) -> None:
        """Learn the source, alike for every method; ``key`` names what is learned."""
        recipe = self.recipe
        lesson = Lesson.of([self.sequence[0].train], [self.sequence.columns(0, 1)], self.sequence.classes)
        optimizer = new_optimizer(recipe, self.model.parameters(), recipe.pretraining_rate)
        monitor = Monitor(self.model, self.sequence.tasks[:1], every=recipe.every)
        logbook = Logbook(monitor, {"task": 1, "name": self.sequence[0].name, "phase": "pretraining"}, (),
                          f"of the pretraining with rate {recipe.pretraining_rate}: lower pretraining_rate",
                          self.observe)
        steps = lesson.steps(recipe.batch, recipe.pretraining_epochs, drop_last=recipe.drop_last)
        started = clock(recipe.device)
        with seeded(derive(self.seed, "pretraining"), recipe.device), without_denormals():
            train(self.model, lesson, optimizer, self.batches(lesson, 1, steps), logbook)
        logbook.close()
        seconds = clock(recipe.device) - started - logbook.seconds
        self.pretraining = {"seconds": seconds, "trained": [
            {**self._trained(1, seconds), "method": "pretraining", "run": f"shared/{key}"}]}

    def learn(self, number: int) -> None:
        """Learn one task more and test on all."""
        device = self.recipe.device
        with seeded(derive(self.seed, "task", number), device), without_denormals(), Peak(device) as peak:
            consolidation = self.consolidate(number)
            if self.recipe.method.joint and number > 1:
                self.model.load_state_dict(self.given)
                self.moments = {}
            situation = self.situation(number)
            training = self._train(number, situation)
            if number > 1:
                consolidation += self._look_back(number, situation)
        self.finish(number, training, consolidation, peak.bytes)

    def finish(self, number: int, training: float, consolidation: float, peak_bytes: int) -> None:
        """Test on all tasks once one more was learned in so many seconds, and write it down."""
        self.learned = number
        self._measure(number)
        if number == 1:
            self.statistics = running_statistics(self.model)
        self.figures["seconds_training"] += training
        self.figures["seconds_consolidation"] += consolidation
        self.figures["peak_bytes"] = max(self.figures["peak_bytes"], peak_bytes)
        self.trained.append(self._trained(number, training + consolidation))
        self.observe({"event": "task", **self._where(number), "accuracy": self.figures["accuracy"][-1],
                      "seconds": training + consolidation})

    def state(self) -> dict[str, Any]:
        """All tensors that the next task builds on."""
        states = {name: regularizer.state_dict() for name, regularizer in self.regularizers.items()}
        return {"model": dict(self.model.state_dict()), "regularizers": states, "statistics": self.statistics,
                "moments": self.moments}

    def progress(self) -> dict[str, Any]:
        """All figures so far, in plain data."""
        return {"learned": self.learned, "trained": self.trained, "figures": self.figures}

    def first_task(self, key: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """:meth:`progress` and :meth:`state` after the first task, for all runs that learn it alike under ``key``.

        This run's own journal leaves it out: it is counted once.
        """
        trained = [{**entry, "method": "first task", "run": f"shared/{key}"} for entry in self.trained]
        self.trained = []
        state = self.state()
        heard = {name: state["regularizers"][name] for name, regularizer in self.regularizers.items()
                 if regularizer.listens}
        return {**self.progress(), "trained": trained}, {**state, "regularizers": heard}

    def resume(self, progress: Mapping[str, Any], state: Mapping[str, Any]) -> None:
        """Go on where :meth:`progress` and :meth:`state` were written."""
        self.learned = progress["learned"]
        self.trained = [entry for entry in progress["trained"] if entry["run"] == self.key]
        self.figures = dict(progress["figures"])
        self.model.load_state_dict(state["model"])
        for name, known in state["regularizers"].items():
            self.regularizers[name].load_state_dict(known)
        self.statistics, self.moments = state["statistics"], state["moments"]
        self.observe({"event": "resume", **self._where(self.learned)})

    def result(self) -> Result:
        """The result, once all tasks were learned."""
        about = provenance(self.recipe.device, self.seed, self.fingerprint)
        if self.pretraining:
            about["seconds_pretraining"] = self.pretraining["seconds"]
        return Result.from_data({
            **self.figures, "recipe": self.recipe.as_data(), "seed": self.seed, "key": self.key,
            "tasks": [task.name for task in self.sequence], "pretrained": self.sequence.pretrained,
            "drift": drift(self.model, self.given), "restored": self._restored(), "provenance": about,
        })

    def consolidate(self, number: int) -> float:
        """Let the regularizers absorb the task before this one; the seconds that took."""
        if number == 1 or not self.regularizers:
            return 0.0
        started = clock(self.recipe.device)
        for regularizer in self.regularizers.values():
            mixed = torch.Generator().manual_seed(derive(self.seed, "consolidation", number))  # the first n: a sample
            data = self.sequence[number - 2].train.batches(self.recipe.batch, shuffle=True, generator=mixed)
            try:
                regularizer.consolidate(self.model, data, outputs=self.sequence.columns(number - 2, number - 1))
            except NotFinite as error:  # what is computed of the weights overflows, before they do
                raise Diverged(f"{error}: after learning {self.advice(number - 1)}") from error
        seconds = clock(self.recipe.device) - started
        self.observe({"event": "consolidation", **self._where(number), "seconds": seconds})
        return seconds

    def _train(self, number: int, situation: Situation) -> float:
        """Train on one task; the seconds that took, without those of measuring."""
        recipe = self.recipe
        lesson = self.lesson(number)
        monitor = Monitor(self.model, self.sequence.tasks[:number], every=recipe.every,
                          columns=list(situation.columns))
        acting = [part for part in self.parts if part.regularizer and number > 1]
        terms, by_hooks = ([self.regularizers[part.name] for part in acting if (part.mode == "loss") is in_loss]
                           for in_loss in (True, False))
        logbook = Logbook(monitor, {**self._where(number), "steps": situation.steps}, by_hooks, self.advice(number),
                          self.observe)
        started = clock(recipe.device)
        with contextlib.ExitStack() as undo:
            optimizer, schedules = equipped(recipe, self.model, self.regularizers, situation,
                                            self._still and number > 1, undo)
            if recipe.keep_optimizer:
                recall(optimizer, self.model, self.moments)
            train(self.model, lesson, optimizer, self.batches(lesson, number, situation.steps), logbook,
                  regularizers=terms, schedules=schedules)
            logbook.close()
            if recipe.keep_optimizer:
                self.moments = remembered(optimizer, self.model)
        self.figures["steps"] += logbook.steps
        self.figures["penalties"] += logbook.penalties
        return clock(recipe.device) - started - logbook.seconds

    def situation(self, number: int) -> Situation:
        """What the method may look at."""
        task, batch = self.sequence[number - 1], self.recipe.batch
        inputs, _ = next(iter(task.train.batches(batch)))
        columns = tuple(self.sequence.columns(earlier, number) for earlier in range(number))
        steps = self.steps(self.lesson(number))
        looking_back = any(part.average or part.curve or part.follow for part in self.parts)
        start = copy.deepcopy(self.model.state_dict()) if looking_back else {}
        return Situation(task, tuple(self.sequence.tasks[: number - 1]), inputs, columns, steps, batch, start,
                         derive(self.seed, "method", number))

    def _look_back(self, number: int, situation: Situation) -> float:
        """What methods do with the weights before and after a task; the seconds that took, without measuring."""
        seconds = 0.0
        for part in self.parts:
            if part.curve is not None:
                for amount, model in part.curve(self.model, situation):
                    accuracy = list(self._monitor(number, model).measure().values())
                    self.figures["curve"].append({"task": number, "amount": amount, "accuracy": accuracy})
            if part.average is not None:
                started = clock(self.recipe.device)
                part.average(self.model, situation)
                seconds += clock(self.recipe.device) - started
        return seconds

    def lesson(self, number: int) -> Lesson:
        """What is trained on: the task, or for joint training all so far."""
        tasks = range(number) if self.recipe.method.joint else [number - 1]
        return Lesson.of([self.sequence[task].train for task in tasks],
                         [self.sequence.columns(task, number) for task in tasks], self.sequence.classes)

    def batches(self, lesson: Lesson, number: int, steps: int) -> Iterator[tuple[Tensor, Tensor]]:
        """A task's batches, in an order of the seed and the task: the same for every method."""
        order = torch.Generator().manual_seed(derive(self.seed, "order", number))
        return lesson.batches(self.recipe.batch, steps, order, drop_last=self.recipe.drop_last)

    def steps(self, lesson: Lesson) -> int:
        """Of the optimizer, until a task is learned."""
        recipe = self.recipe
        return recipe.steps or lesson.steps(recipe.batch, recipe.epochs, drop_last=recipe.drop_last)

    def _measure(self, row: int) -> None:
        """One row of R."""
        monitor = self._monitor(row, self.model)
        right = monitor.correct()
        self.figures["accuracy"].append([float(flags.double().mean()) for flags in right])
        self.figures["correct"].append([packed(flags.numpy()) for flags in right])
        if all(len(task.validation) for task in self.sequence):
            self.figures["validation"].append([float(flags.double().mean()) for flags in monitor.correct("validation")])

    @property
    def _still(self) -> bool:
        """Whether the norm layers keep their statistics in the tasks after the first."""
        wanted = self.recipe.norm_statistics or ("still" if self.sequence.pretrained else "moving")
        return wanted == "still" and bool(self.statistics)

    def _restored(self) -> float | None:
        """Source accuracy with the running statistics of when the source had been learned."""
        if not self.statistics:
            return None
        now = running_statistics(self.model)
        put_back(self.model, self.statistics)
        right = self._monitor(self.learned, self.model).correct()[0]
        put_back(self.model, now)
        return float(right.double().mean())

    def _monitor(self, learned: int, model: torch.nn.Module) -> Monitor:
        """A monitor of all tasks' tests once ``learned`` tasks were learned."""
        columns = [self.sequence.columns(task, learned) for task in range(len(self.sequence))]
        return Monitor(model, self.sequence, every=1, columns=columns)

    def _where(self, number: int) -> dict[str, Any]:
        return {"task": number, "name": self.sequence[number - 1].name, "tasks": len(self.sequence),
                "method": self.recipe.method.name, "seed": self.seed}

    def _trained(self, number: int, seconds: float) -> dict[str, Any]:
        """The journal's line about a training that is finished."""
        return {"run": self.key, **self._where(number), "sequence": self.sequence.name, "seconds": round(seconds, 6),
                "finished": dt.datetime.now(dt.timezone.utc).isoformat()}

    def advice(self, number: int) -> str:
        """The end of an error about numbers that are not finite."""
        method, rate = self.recipe.method, self.recipe.rate * (self.recipe.method.rate if number > 1 else 1)
        strengths = [value for key, value in method.settings.items() if key.rpartition(".")[2] == "strength"]
        strength = f" with strength {' and '.join(map(str, strengths))}" if strengths else ""
        remedy = "lower the rate"
        if any(part.regularizer and part.mode != "proximal" for part in self.parts):
            remedy += " or the strength"
            if any("proximal" in regularizer.modes for regularizer in self.regularizers.values()):
                remedy += ", or choose mode='proximal', which is stable at any strength"
        return (f"of task {number} ({self.sequence[number - 1].name}), method {method.name!r}{strength}, rate {rate}: "
                f"{remedy}. Tasks that were finished before stay in the store")
