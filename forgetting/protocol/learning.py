"""One run while it goes on: the model, what was measured so far, and how one task more is learned."""

from __future__ import annotations

import contextlib
import copy
import datetime as dt
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from forgetting.curvature import NotFinite
from forgetting.norms import still
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
from forgetting.protocol.method import Schedule, Situation
from forgetting.protocol.monitor import Monitor
from forgetting.protocol.recipe import DTYPES, OPTIMIZERS, Recipe, derive, seeded
from forgetting.protocol.result import Result, packed
from forgetting.protocol.train import Lesson, train
from forgetting.rehearsal import Rehearsal


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
        self.pretraining: dict[str, Any] = {}
        self.trained: list[dict[str, Any]] = []
        self.figures: dict[str, Any] = {
            "accuracy": [], "correct": [], "steps": [], "penalties": [], "curve": [],
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
        optimizer = self._optimizer(self.model.parameters(), recipe.pretraining_rate)
        monitor = Monitor(self.model, self.sequence.tasks[:1], every=recipe.every)
        logbook = Logbook(monitor, {"task": 1, "name": self.sequence[0].name, "phase": "pretraining"}, (),
                          f"of the pretraining with rate {recipe.pretraining_rate}: lower pretraining_rate",
                          self.observe)
        started = clock(recipe.device)
        with seeded(derive(self.seed, "pretraining"), recipe.device):
            train(self.model, lesson, optimizer, self._batches(lesson, 1, recipe.pretraining_epochs), logbook)
        logbook.close()
        seconds = clock(recipe.device) - started - logbook.seconds
        self.pretraining = {"seconds": seconds, "trained": [
            {**self._trained(1, seconds), "method": "pretraining", "run": f"shared/{key}"}]}

    def learn(self, number: int) -> None:
        """Learn one task more and test on all."""
        recipe = self.recipe
        with seeded(derive(self.seed, "task", number), recipe.device), Peak(recipe.device) as peak:
            consolidation = self._consolidate(number) if self.regularizers and number > 1 else 0.0
            if recipe.method.joint and number > 1:
                self.model.load_state_dict(self.given)
            situation = self._situation(number)
            training = self._train(number, situation)
            if number > 1:
                consolidation += self._look_back(number, situation)
        self.learned = number
        self._measure(number)
        if number == 1:
            self.statistics = running_statistics(self.model)
        self.figures["seconds_training"] += training
        self.figures["seconds_consolidation"] += consolidation
        self.figures["peak_bytes"] = max(self.figures["peak_bytes"], peak.bytes)
        self.trained.append(self._trained(number, training + consolidation))
        self.observe({"event": "task", **self._where(number), "accuracy": self.figures["accuracy"][-1],
                      "seconds": training + consolidation})

    def state(self) -> dict[str, Any]:
        """All tensors that the next task builds on."""
        states = {name: regularizer.state_dict() for name, regularizer in self.regularizers.items()}
        return {"model": dict(self.model.state_dict()), "regularizers": states, "statistics": self.statistics}

    def progress(self) -> dict[str, Any]:
        """All figures so far, in plain data."""
        return {"learned": self.learned, "trained": self.trained, "figures": self.figures}

    def resume(self, progress: Mapping[str, Any], state: Mapping[str, Any]) -> None:
        """Go on where :meth:`progress` and :meth:`state` were written."""
        self.learned, self.trained = progress["learned"], progress["trained"]
        self.figures = dict(progress["figures"])
        self.model.load_state_dict(state["model"])
        for name, regularizer in self.regularizers.items():
            regularizer.load_state_dict(state["regularizers"][name])
        self.statistics = state["statistics"]
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

    def _consolidate(self, number: int) -> float:
        """Let the regularizers absorb the task before; the seconds that took."""
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
        lesson = self._lesson(number)
        monitor = Monitor(self.model, self.sequence.tasks[:number], every=recipe.every,
                          columns=list(situation.columns))
        acting = [part for part in self.parts if part.regularizer and number > 1]
        terms, by_hooks = ([self.regularizers[part.name] for part in acting if (part.mode == "loss") is in_loss]
                           for in_loss in (True, False))
        logbook = Logbook(monitor, {**self._where(number), "steps": situation.steps}, by_hooks, self.advice(number),
                          self.observe)
        started = clock(recipe.device)
        with contextlib.ExitStack() as undo:
            optimizer, schedules = self._tools(number, situation, undo)
            train(self.model, lesson, optimizer, self._batches(lesson, number, recipe.epochs), logbook,
                  regularizers=terms, schedules=schedules)
            logbook.close()
        self.figures["steps"] += logbook.steps
        self.figures["penalties"] += logbook.penalties
        return clock(recipe.device) - started - logbook.seconds

    def _situation(self, number: int) -> Situation:
        """What the method may look at."""
        task, batch = self.sequence[number - 1], self.recipe.batch
        inputs, _ = next(iter(task.train.batches(batch)))
        columns = tuple(self.sequence.columns(earlier, number) for earlier in range(number))
        steps = self._lesson(number).steps(batch, self.recipe.epochs)
        looking_back = any(part.average or part.curve or part.follow for part in self.parts)
        start = copy.deepcopy(self.model.state_dict()) if looking_back else {}
        return Situation(task, tuple(self.sequence.tasks[: number - 1]), inputs, columns, steps, batch, start,
                         derive(self.seed, "method", number))

    def _tools(self, number: int, situation: Situation,
               undo: contextlib.ExitStack) -> tuple[Optimizer, list[Schedule]]:
        """Optimizer and schedules of a task, with all that the method holds fast until ``undo``.

        The source is learned alike by all methods: their pieces act on the tasks after it. Only a regularizer listens
        from the beginning.
        """
        parameters, rate, schedules = None, self.recipe.rate, []
        if number > 1:
            rate *= self.recipe.method.rate
            norms = self.recipe.norm_statistics or ("still" if self.sequence.pretrained else "moving")
            if norms == "still" and self.statistics:
                undo.enter_context(still(self.model))
            for part in self.parts:
                if part.prepare is not None:
                    undo.enter_context(part.prepare(self.model, situation))
            makers = [part.groups for part in self.parts if part.groups is not None]
            parameters = makers[0](self.model, rate, situation) if makers else None
        optimizer = self._optimizer(parameters or self.model.parameters(), rate)
        if number > 1:
            schedules = [part.schedule(optimizer, situation) for part in self.parts if part.schedule is not None]
            if sum(isinstance(schedule, LRScheduler) for schedule in schedules) > 1:
                raise ValueError(f"method {self.recipe.method.name!r} has several schedules that set the rate; the "
                                 "last would undo the others: combine methods of which one does")
        alike = len({tuple(own) for own in situation.columns}) == 1
        for part in self.parts:
            if part.regularizer is not None:
                regularizer = self.regularizers[part.name]
                if isinstance(regularizer, Rehearsal):
                    regularizer.columns = situation.columns[-1] if alike else None
                undo.enter_context(regularizer.attach(self.model, optimizer, mode=part.mode))
        for part in self.parts:  # after the regularizers: an average is of the weights that a proximal step leaves
            if part.follow is not None and number > 1:
                undo.enter_context(part.follow(self.model, optimizer, situation))
        return optimizer, schedules

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

    def _optimizer(self, parameters: Any, rate: float) -> Optimizer:
        """A new optimizer of the recipe's kind."""
        momentum = {"momentum": self.recipe.momentum} if self.recipe.optimizer == "sgd" else {}
        groups = [group for group in parameters if isinstance(group, dict) or group.requires_grad]
        return OPTIMIZERS[self.recipe.optimizer](groups, lr=rate, weight_decay=self.recipe.weight_decay, **momentum)

    def _lesson(self, number: int) -> Lesson:
        """What is trained on: the task, or for joint training all so far."""
        tasks = range(number) if self.recipe.method.joint else [number - 1]
        return Lesson.of([self.sequence[task].train for task in tasks],
                         [self.sequence.columns(task, number) for task in tasks], self.sequence.classes)

    def _batches(self, lesson: Lesson, number: int, epochs: int) -> Iterator[tuple[Tensor, Tensor]]:
        """A task's batches, in an order of the seed and the task: the same for every method."""
        order = torch.Generator().manual_seed(derive(self.seed, "order", number))
        return lesson.batches(self.recipe.batch, epochs, order)

    def _measure(self, row: int) -> None:
        """One row of R."""
        right = self._monitor(row, self.model).correct()
        self.figures["accuracy"].append([float(flags.double().mean()) for flags in right])
        self.figures["correct"].append([packed(flags.numpy()) for flags in right])

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
