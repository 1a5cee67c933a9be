"""Learn tasks in order and test on all of them after each: the protocol."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import warnings
from collections.abc import Callable
from typing import Any

from forgetting.curvature import NotFinite
from forgetting.protocol.ending import Diagnose, diagnosed, source_known
from forgetting.protocol.learning import Learning
from forgetting.protocol.logbook import Diverged
from forgetting.protocol.recipe import Recipe
from forgetting.protocol.result import Result
from forgetting.protocol.store import Store


def run(
    recipe: Recipe,
    seed: int = 0,
    *,
    store: Store | str | os.PathLike[str] | None = None,
    observe: Callable[[dict[str, Any]], None] | None = None,
    diagnose: Diagnose | None = None,
) -> Result:
    """Run a recipe with one seed: learn its tasks in order, test on all of them after each.

    R[j, i] = accuracy on task i's test split once tasks 1…j were learned; row 0 is the model as given. In a pretrained
    sequence task 1, the source, is learned before, in a phase that is the same for every method; otherwise it is
    learned from scratch. Before each later task the method's regularizer consolidates the task before, so that it acts
    from the first step on. Same seed: the same initial weights and the same order of examples for every method; torch's
    global generators are left as found.

    Joint training starts each task from the model as given, on the union of the tasks so far, each example scored
    in its own task's columns.

    Args:
        recipe: what to run.
        seed: of weights, data order and what the sequence draws.
        store: a directory (or a :class:`Store`): a finished run is read from it, an interrupted one goes on after
            its last finished task and ends as if nothing had happened, the pretraining is done once a seed.
        observe: is called with a dict at every event: ``"start"``, ``"step"`` (a measurement inside a task),
            ``"consolidation"``, ``"task"``, ``"resume"``, ``"result"`` under the key ``"event"``.
        diagnose: :func:`forgetting.diagnosis.of_run`, or None: what it says of the model that knew the source and of
            the model at the end is kept in ``Result.diagnosis``. It changes no figure and not the run's name in the
            store; a run that was finished without it stays without, as its models are gone.

    Returns:
        The result; the model itself is not kept.

    Raises:
        Diverged: where the loss, a weight or a regularizer's matrix is not finite, with the task and what to lower.
        ValueError: where the store is of another version, or for anything in the recipe that does not fit.

    **Cost**: epochs over each task's training data, one pass over all test splits a task, one over those of the
    tasks so far every ``recipe.every`` steps.
    **Reference**: Lopez-Paz & Ranzato 2017, section 3, for R; van de Ven, Tuytelaars & Tolias 2022 for the scenarios.
    **Differs**: row 0.

    Example:
        >>> from forgetting.protocol import Method
        >>> result = run(Recipe("digits-transfer", Method("plain"), epochs=1, pretraining_epochs=1))
        >>> result.accuracy.shape
        (3, 2)
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise ValueError(f"seed is {seed!r}; it must be a whole number, at least 0")
    if not isinstance(recipe, Recipe):
        raise TypeError(f"run takes a Recipe, not a {type(recipe).__name__}")
    observe = observe or (lambda _: None)
    shelf = Store(store) if store is not None and not isinstance(store, Store) else store
    learning = Learning(recipe, seed, observe)
    about = {"method": recipe.method.name, "sequence": learning.sequence.name, "seed": seed, "key": learning.key}
    with _claim(shelf, learning.key):
        result = shelf.result(learning.key) if shelf else None
        observe({"event": "start", **about, "recipe": recipe.as_data(),
                 "tasks": [task.name for task in learning.sequence], "finished": result is not None})
        if result is None:
            result = _learn(learning, shelf, diagnose)
    observe({"event": "result", **about, "result": result})
    return result


def _claim(store: Store | None, key: str) -> contextlib.AbstractContextManager[None]:
    """Nobody else computes what the key names meanwhile."""
    return store.claim(key) if store else contextlib.nullcontext()


def _learn(learning: Learning, store: Store | None, diagnose: Diagnose | None) -> Result:
    """Pretrain, or take the pretraining from the store; learn the tasks that the store does not know; keep all."""
    if learning.sequence.pretrained and learning.recipe.pretraining_epochs:
        _pretrain(learning, store)
    learning.begin()
    saved = store.progress(learning.key, learning.recipe.device) if store else None
    if saved:
        learning.resume(*saved)
    elif store and not learning.learned:
        _first_task(learning, store)
    source = source_known(learning, store) if diagnose and learning.learned else None
    for number in range(learning.learned + 1, len(learning.sequence) + 1):
        _one_more(learning, number)
        if store:
            store.save_progress(learning.key, learning.progress(), learning.state())
        if diagnose and number == 1:
            source = source_known(learning, store)
    result = learning.result()
    if diagnose and source is not None:
        result = dataclasses.replace(result, diagnosis=diagnosed(learning, source, diagnose))
    elif diagnose:
        warnings.warn(f"run {learning.key} goes on behind its first task, whose weights are not in the store: it has "
                      "no diagnosis", UserWarning, stacklevel=2)
    if store:
        store.save_result(result)
    return result


def _first_task(learning: Learning, store: Store) -> None:
    """The first task, computed once a store, a seed and a way of listening to it."""
    key = learning.recipe.first_task_key(learning.seed, learning.fingerprint)
    with store.claim(key):
        found = store.shared(key, learning.recipe.device)
        if found:
            learning.resume(*found)
            return
        _one_more(learning, 1)
        store.save_shared(key, *learning.first_task(key))


def _one_more(learning: Learning, number: int) -> None:
    """Learn a task; what overflows in what methods do afterwards is a divergence, too."""
    try:
        learning.learn(number)
    except NotFinite as error:
        raise Diverged(f"{error}: after learning {learning.advice(number)}") from error


def _pretrain(learning: Learning, store: Store | None) -> None:
    """The model that knows the source, computed once a store and seed."""
    key = learning.recipe.pretraining_key(learning.seed, learning.fingerprint)
    with _claim(store, key):
        found = store.shared(key, learning.recipe.device) if store else None
        if found:
            learning.pretraining, state = found
            learning.model.load_state_dict(state)
            return
        learning.pretrain(key)
        if store:
            store.save_shared(key, learning.pretraining, dict(learning.model.state_dict()))
