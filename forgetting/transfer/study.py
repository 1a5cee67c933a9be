"""All runs of the comparison: rates chosen on validation data, then arms × shares × seeds."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from forgetting.protocol import Executor, Recipe, Store, sweep
from forgetting.tasks import DataSplit, Examples, Task, TaskSequence
from forgetting.transfer.arms import Arm, Budget
from forgetting.transfer.runs import Run
from forgetting.transfer.subsets import nested

CHOOSING_SEED = 1000  # no table reports it
HELD, TARGET = "held out", "target"


@dataclass(frozen=True)
class Chosen:
    """The rate of one arm at one share.

    Args:
        arm: its name.
        share: of the labels, at which it was chosen.
        rate: of the highest accuracy on validation data at the end; of equals the first.
        scores: candidate -> that accuracy; −1 where it diverged.

    Example:
        >>> Chosen("scratch", 1.0, 0.1, {0.01: 0.5, 0.1: 0.7}).at_the_edge
        True
    """

    arm: str
    share: float
    rate: float
    scores: Mapping[float, float]

    @property
    def at_the_edge(self) -> bool:
        """Whether the best candidate is the first or last of its range: a rate beyond may be better."""
        return self.rate in (min(self.scores), max(self.scores))


@dataclass(frozen=True)
class Study:
    """Everything that was measured.

    Args:
        runs: arms × shares × seeds.
        chosen: the rates.
        budget: what each run spent.

    Example:
        >>> Study((), (), Budget(steps=10)).shares
        ()
    """

    runs: tuple[Run, ...]
    chosen: tuple[Chosen, ...]
    budget: Budget

    @property
    def shares(self) -> tuple[float, ...]:
        """Of the labels, ascending."""
        return tuple(sorted({run.share for run in self.runs}))

    def as_data(self) -> dict[str, Any]:
        """Plain data, ready for JSON."""
        chosen = [{**dataclasses.asdict(choice), "scores": [list(pair) for pair in choice.scores.items()]}
                  for choice in self.chosen]
        return {"budget": dataclasses.asdict(self.budget), "chosen": chosen,
                "runs": [run.as_data() for run in self.runs]}

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Study:
        """The study that :meth:`as_data` described."""
        chosen = tuple(Chosen(**{**choice, "scores": dict(choice["scores"])})
                       for choice in data["chosen"])
        return cls(tuple(map(Run.from_data, data["runs"])), chosen, Budget(**data["budget"]))


def measure(
    target: DataSplit,
    arms: Sequence[Arm],
    *,
    shares: Sequence[float],
    seeds: Iterable[int],
    budget: Budget,
    store: Store | str | os.PathLike[str],
    chosen_at: float | None = None,
    executor: Executor | None = None,
    observe: Callable[[dict[str, Any]], None] | None = None,
) -> Study:
    """Compare arms at equal budget over shares of the labels.

    The seed draws which labels are kept (alike for all arms), the order of examples (alike) and what is fresh of the
    weights. Each arm's rate is the one of the highest validation accuracy at the end, of as many candidates an arm,
    with seed 1000, which must not be reported. The validation data are whole at every share, as large as they are.

    Args:
        target: to learn, to choose on, to report on; targets count over all logits of the arms' models.
        arms: of :func:`forgetting.transfer.arms`.
        shares: of the training labels, in (0, 1].
        seeds: whole numbers, at least 0.
        budget: what each run spends.
        store: a directory, or a store: what it holds is not computed again.
        chosen_at: the share at which rates are chosen, for all shares; None chooses at each share by itself.
        executor: where the runs are computed, see :func:`forgetting.protocol.sweep`.
        observe: receives the events of :func:`forgetting.protocol.sweep`.

    Raises:
        ValueError: without seeds, where one is that of choosing, without validation data, where all candidates of an
            arm diverge, or a reported run does.

    **Cost**: arms × candidates × shares (1 with ``chosen_at``) + arms × shares × seeds runs of ``budget.steps`` steps;
    validation and test data are gone through three times a run, and every ``budget.every`` steps.

    Example:
        >>> import tempfile
        >>> from forgetting import tasks, transfer
        >>> rates = {"finetune": [0.1], "scratch": [0.1], "linear-probe": [0.1]}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     study = measure(tasks.digits(), transfer.arms("mlp-8", "mlp-8", rates=rates), shares=[0.1, 1.0],
        ...                     seeds=[0], budget=Budget(steps=2), store=folder)
        >>> len(study.runs), study.shares
        (6, (0.1, 1.0))
    """
    seeds = list(seeds)
    if not seeds or CHOOSING_SEED in seeds:
        raise ValueError(f"seeds to report are {seeds}: expected at least one, and not {CHOOSING_SEED}, which chooses")
    if not len(target.validation):
        raise ValueError("the target has no validation examples, on which rates are chosen: hold some out")
    shelf = store if isinstance(store, Store) else Store(store)
    chosen: list[Chosen] = []
    of: dict[tuple[str, float], float] = {}
    for share in [chosen_at] if chosen_at is not None else sorted(shares):
        found = _choose(target, arms, share, budget, shelf, executor, observe)
        chosen += found
        of |= {(choice.arm, some): choice.rate for choice in found
               for some in (shares if chosen_at is not None else [share])}
    runs: list[Run] = []
    for seed in seeds:
        labelled = nested(target.train, shares, seed=seed)
        plan = [(arm, share) for share in labelled for arm in arms]
        recipes = [_recipe(arm, target._replace(train=labelled[share]), of[arm.name, share], budget)
                   for arm, share in plan]
        results, diverged = sweep(recipes, [seed], store=shelf, executor=executor, observe=observe)
        if diverged:
            raise ValueError(f"{diverged[0].error}; its rate was chosen with another seed: leave the highest rates out")
        runs += [Run.of(result, arm.name, share, len(labelled[share]))
                 for result, (arm, share) in zip(results, plan, strict=True)]
    return Study(tuple(runs), tuple(chosen), budget)


def _choose(target: DataSplit, arms: Sequence[Arm], share: float, budget: Budget, store: Store,
            executor: Executor | None, observe: Callable[[dict[str, Any]], None] | None) -> list[Chosen]:
    """Each arm's rate at one share; no test example is looked at."""
    train = nested(target.train, [share], seed=CHOOSING_SEED)[share]
    hidden = DataSplit(train, target.validation, target.validation)
    once = dataclasses.replace(budget, every=budget.steps + 1)
    plan = [(arm, rate, _recipe(arm, hidden, rate, once)) for arm in arms for rate in arm.rates]
    results, diverged = sweep([recipe for *_, recipe in plan], [CHOOSING_SEED], store=store, executor=executor,
                              observe=observe)
    lost = {id(divergence.recipe) for divergence in diverged}
    learned = iter(results)
    scores: dict[str, dict[float, float]] = {arm.name: {} for arm in arms}
    for arm, rate, recipe in plan:
        scores[arm.name][rate] = -1.0 if id(recipe) in lost else float(next(learned).accuracy[2, 0])
    for name, table in scores.items():
        if max(table.values()) < 0:
            raise ValueError(f"every rate of {name} diverged at a share of {share}: {list(table)}; take lower ones")
    return [Chosen(name, share, max(table, key=table.__getitem__), table) for name, table in scores.items()]


def _recipe(arm: Arm, target: DataSplit, rate: float, budget: Budget) -> Recipe:
    """An arm's run: the held-out part is measured as a first task that nobody learns, the target is the second."""
    return Recipe(_sequence(target), arm.method, network=arm.network, optimizer=budget.optimizer, rate=rate,
                  momentum=budget.momentum, steps=budget.steps, batch=budget.batch, pretraining_epochs=0,
                  norm_statistics=arm.norm_statistics, every=budget.every, device=budget.device)


def _sequence(target: DataSplit) -> TaskSequence:
    """Held-out part and target, which share their columns."""
    outputs = sorted(set(target.train.targets.tolist()) | set(target.validation.targets.tolist())
                     | set(target.test.targets.tolist()))
    held: Examples = target.validation
    nothing = held.subset([])
    parts = (Task.of(HELD, DataSplit(held, nothing, held), outputs),
             Task.of(TARGET, DataSplit(target.train, nothing, target.test), outputs))
    return TaskSequence("transfer", parts, "domain", 1 + max(outputs), pretrained=True)
