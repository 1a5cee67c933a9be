"""Many runs: recipes × seeds, each of them independent, resumable, and computed once a store."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from forgetting.protocol.ending import Diagnose
from forgetting.protocol.executors import Executor, InProcess, Job
from forgetting.protocol.executors.executor import Observer, Outcome
from forgetting.protocol.logbook import Diverged
from forgetting.protocol.recipe import Recipe
from forgetting.protocol.result import Result
from forgetting.protocol.run import run
from forgetting.protocol.store import Store


class Divergence(NamedTuple):
    """A run that cannot be learned as it is.

    Args:
        recipe: of the run.
        seed: of the run.
        error: says where it diverged, and what to lower.

    Example:
        >>> Divergence(Recipe("digits-transfer"), 0, Diverged("the loss is nan")).seed
        0
    """

    recipe: Recipe
    seed: int
    error: Diverged


class Swept(NamedTuple):
    """What came of a sweep, in the order of recipes, and of seeds within a recipe.

    Args:
        results: of the runs that were learned.
        diverged: the others.

    Example:
        >>> results, diverged = Swept([], [])
    """

    results: list[Result]
    diverged: list[Divergence]


def sweep(
    recipes: Iterable[Recipe],
    seeds: Iterable[int],
    *,
    store: Store | str | os.PathLike[str],
    executor: Executor | None = None,
    observe: Callable[[dict[str, Any]], None] | None = None,
    diagnose: Diagnose | None = None,
) -> Swept:
    """Run every recipe with every seed.

    A finished run is read from the store, one that was interrupted goes on after its last finished task, and what
    several runs share (the pretraining, a first task that they learn alike) is computed once. Other processes may work
    on the same store at the same time: a run that one of them has is waited for, after all others.

    Args:
        recipes: any, of one method or many: a grid is a list, one recipe a point.
        seeds: whole numbers, at least 0.
        store: a directory, or a :class:`Store`.
        executor: where the runs are computed; None is here, one after the other.
            :class:`~forgetting.protocol.Processes` is a pool on this machine.
        observe: is called with the events of :func:`forgetting.run`, each with the run's place in the sweep under
            ``"number"``, and with a ``"diverged"`` event in place of a result.
        diagnose: as :func:`forgetting.run` takes it; the runs are then computed here, one after the other.

    Returns:
        Results, and what diverged.

    Raises:
        TypeError: where ``seeds`` is one number, or a recipe cannot be sent to where the executor computes.
        ValueError: for ``diagnose`` together with an executor.
        Exception: whatever else a run raises; no other is begun, and what was finished stays in the store.

    **Cost**: that of the runs that the store does not know.

    Example:
        >>> import tempfile
        >>> from forgetting import methods
        >>> fields = {"epochs": 1, "pretraining_epochs": 1}
        >>> grid = [Recipe("digits-transfer", methods.get("l2sp", strength=s), **fields) for s in (0.01, 0.1)]
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     results, diverged = sweep(grid, range(2), store=directory)
        >>> [(result.recipe["method"]["settings"]["strength"], result.seed) for result in results]
        [(0.01, 0), (0.01, 1), (0.1, 0), (0.1, 1)]
    """
    if isinstance(seeds, int):
        raise TypeError(f"seeds={seeds}: expected several; range({seeds}) is as many of them")
    if diagnose is not None and executor is not None:
        raise ValueError(f"diagnose= looks at models, which {type(executor).__name__} does not hand back: leave the "
                         "executor away, or the diagnosis")
    seeds = list(seeds)
    pairs = [(recipe, seed) for recipe in recipes for seed in seeds]
    jobs = [Job(number, recipe, seed) for number, (recipe, seed) in enumerate(pairs)]
    shelf = store if isinstance(store, Store) else Store(store)

    def told(job: Job, event: dict[str, Any]) -> None:
        if observe is not None:
            observe({**event, "number": job.number})

    found = {}
    chosen = executor or (InProcess() if diagnose is None else _Diagnosing(diagnose))
    for job, outcome in chosen.outcomes(jobs, shelf, None if observe is None else told):
        found[job.number] = outcome
        if isinstance(outcome, Diverged):
            told(job, {"event": "diverged", "method": job.recipe.method.name, "seed": job.seed, "reason": str(outcome)})
    ends = [(job, found[job.number]) for job in jobs]
    return Swept([end for _, end in ends if isinstance(end, Result)],
                 [Divergence(job.recipe, job.seed, end) for job, end in ends if isinstance(end, Diverged)])


class _Diagnosing(Executor):
    """One run after the other, in this process, each with its diagnosis; another process's run is waited for."""

    def __init__(self, diagnose: Diagnose) -> None:
        self.diagnose = diagnose

    def outcomes(self, jobs: Sequence[Job], store: Store, observe: Observer | None) -> Iterator[tuple[Job, Outcome]]:
        for job in jobs:
            try:
                told = None if observe is None else functools.partial(observe, job)
                yield job, run(job.recipe, job.seed, store=store, observe=told, diagnose=self.diagnose)
            except Diverged as error:
                yield job, error
