"""Many runs of a small model at once: their weights are stacked, and every step is one for all of them."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Hashable, Iterator, Sequence
from typing import Any

from torch import nn

from forgetting.protocol.executors.executor import Executor, InProcess, Job, Observer, Outcome
from forgetting.protocol.executors.stacked import counted, train_stacked
from forgetting.protocol.learning import Learning
from forgetting.protocol.logbook import Diverged
from forgetting.protocol.measure import clock
from forgetting.protocol.recipe import Recipe, derive, seeded
from forgetting.protocol.store import Store
from forgetting.protocol.train import without_denormals
from forgetting.regularizers import QuadraticRegularizer, Regularizer


class Together(Executor):
    """Trains runs that differ in seed, strength and kind of matrix alone at once, on one device.

    Each step takes one batch of every run: one batched forward and backward, one step of an optimizer whose
    parameters are the stacked weights. What is independent stays so: no run sees another. Sums are taken in another
    order than in a run by itself, so figures agree to rounding at each step and drift apart from there as two machines'
    do; a result's provenance says how many were trained together. Nothing is measured inside a task.

    Together go runs from scratch with plain fine-tuning and with quadratic penalties that have a diagonal in float32
    and pull in the loss or the gradient, of models without buffers (no BatchNorm), without dropout, in float32 or
    float64, of which all weights learn. Others are run one after the other, once those have ended. What another process
    works on is waited for.

    Args:
        most: how many at once.

    Raises:
        ValueError: for fewer than two.

    **Cost**: memory of ``most`` models, their optimizer's state and, with penalties, two copies of the weights each. On
    a GPU that a small model leaves idle a step takes about as long as one run's; on a CPU no arithmetic is saved.

    Example:
        >>> Together(8).most
        8
    """

    def __init__(self, most: int = 32) -> None:
        if type(most) is not int or most < 2:
            raise ValueError(f"most={most!r}: expected a whole number of at least 2")
        self.most = most

    def outcomes(self, jobs: Sequence[Job], store: Store, observe: Observer | None) -> Iterator[tuple[Job, Outcome]]:
        """Each job with its result or its divergence: those that go together first."""
        groups: dict[Hashable, list[Job]] = defaultdict(list)
        alone = []
        for job in jobs:
            kin = _kin(job.recipe)
            if kin is None:
                alone.append(job)
            else:
                groups[kin].append(job)
        for group in groups.values():
            if not _stackable(group[0]):
                alone += group
                continue
            for first in range(0, len(group), self.most):
                yield from _learn(group[first : first + self.most], store, observe)
        yield from InProcess().outcomes(alone, store, observe)


def _kin(recipe: Recipe) -> str | None:
    """What recipes that go together have in common; None for one that goes with no other."""
    for part in recipe.method.parts:
        pieces = (part.prepare, part.groups, part.schedule, part.follow, part.average, part.curve)
        if part.joint or part.rate != 1 or part.mode == "proximal" or any(piece is not None for piece in pieces):
            return None
        fresh = part.regularizer() if part.regularizer is not None else None
        if fresh is not None and not _plain(fresh):
            return None
    if recipe.dtype == "bfloat16":
        return None
    data = {name: value for name, value in recipe.as_data().items() if name != "method"}
    own = [id(value) for value in (recipe.sequence, recipe.network) if not isinstance(value, str)]
    return repr((data, own))


def _plain(regularizer: Regularizer) -> bool:
    """Whether all that it does is to pull by a diagonal that it keeps in float32."""
    return (isinstance(regularizer, QuadraticRegularizer) and not regularizer.listens
            and type(regularizer).penalty is QuadraticRegularizer.penalty
            and getattr(regularizer, "curvature", "diagonal") == "diagonal" and not getattr(regularizer, "head", 0)
            and regularizer.storage == "float32" and not regularizer.offload)


def _stackable(job: Job) -> bool:
    """Whether a run starts from scratch, with a model that learns as a whole and has neither buffers nor dropout."""
    sequence = job.recipe.sequence_of(job.seed)
    model = job.recipe.model_of(sequence, job.seed)
    dropped = any(isinstance(module, nn.modules.dropout._DropoutNd) and module.p for module in model.modules())
    whole = all(weight.requires_grad and weight.dim() for weight in model.parameters())
    whole = whole and next(model.buffers(), None) is None
    return whole and not dropped and not sequence.pretrained


def _learn(jobs: Sequence[Job], store: Store, observe: Observer | None) -> Iterator[tuple[Job, Outcome]]:
    """A group of runs, task by task; what is finished is read, and each task is stored as a single run stores it."""
    with contextlib.ExitStack() as claims:
        # In one order, so that two processes that want the same runs never wait for each other.
        runs = [(job, Learning(job.recipe, job.seed, _told(job, observe))) for job in jobs]
        for key in sorted({learning.key for _, learning in runs}):
            claims.enter_context(store.claim(key))
        going: list[tuple[Job, Learning]] = []
        again = []
        for job, learning in runs:
            if any(learning.key == other.key for _, other in going):
                again.append(job)
                continue
            found = store.result(learning.key)
            if found is not None:
                yield job, found
                continue
            learning.begin()
            saved = store.progress(learning.key, job.recipe.device)
            if saved:
                learning.resume(*saved)
            going.append((job, learning))
        yield from _tasks(going, store)
    yield from InProcess().outcomes(again, store, observe)


def _told(job: Job, observe: Observer | None) -> Any:
    """A run's own listener."""
    return (lambda _: None) if observe is None else lambda event: observe(job, event)


def _tasks(going: list[tuple[Job, Learning]], store: Store) -> Iterator[tuple[Job, Outcome]]:
    """All tasks of all runs, the first one once for all that learn it alike."""
    _first_tasks([learning for _, learning in going], store)
    while going:
        number = min(learning.learned for _, learning in going) + 1
        behind = [learning for _, learning in going if learning.learned < number]
        lost, together = _one_task(behind, number)
        left = []
        for job, learning in going:
            if learning in lost:
                yield job, lost[learning]
                continue
            if learning in behind:
                store.save_progress(learning.key, learning.progress(), learning.state())
            if learning.learned < len(learning.sequence):
                left.append((job, learning))
                continue
            result = learning.result()
            result.provenance["together"] = together.get(learning, 1)
            store.save_result(result)
            yield job, result
        going = left


def _first_tasks(runs: Sequence[Learning], store: Store) -> None:
    """Learn the first task once for all that learn it alike, and take it over from the store."""
    alike: dict[str, list[Learning]] = defaultdict(list)
    for learning in runs:
        if not learning.learned and not learning.sequence.pretrained:
            alike[learning.recipe.first_task_key(learning.seed, learning.fingerprint)].append(learning)
    with contextlib.ExitStack() as claims:
        for key in sorted(alike):
            claims.enter_context(store.claim(key))
        missing = {key: group[0] for key, group in alike.items() if store.shared(key) is None}
        lost, _ = _one_task(list(missing.values()), 1)
        for key, learning in missing.items():
            if learning not in lost:
                store.save_shared(key, *learning.first_task(key))
        for key, group in alike.items():
            for learning in group:
                found = store.shared(key, learning.recipe.device)
                if found and not learning.learned:
                    learning.resume(*found)


def _one_task(runs: Sequence[Learning], number: int) -> tuple[dict[Learning, Diverged], dict[Learning, int]]:
    """Train runs on their next task: those whose weights are not finite afterwards, and how many went with each."""
    consolidation, lost, together = {}, {}, {}
    for learning in runs:
        try:
            with seeded(derive(learning.seed, "task", number), learning.recipe.device):
                consolidation[learning] = learning.consolidate(number)
        except Diverged as error:
            lost[learning] = error
    sets: dict[tuple[int, ...], list[Learning]] = defaultdict(list)
    for learning in consolidation:
        lesson = learning.lesson(number)
        short = 0 if learning.recipe.drop_last else len(lesson.examples)
        columns = 0 if lesson.columns is None else len(lesson.columns)
        sets[learning.steps(lesson), short, columns, counted(learning.moments)].append(learning)
    for (steps, *_), members in sets.items():
        started = clock(members[0].recipe.device)
        with without_denormals():
            finite = train_stacked(members, number, steps)
        seconds = (clock(members[0].recipe.device) - started) / len(members)
        together.update(dict.fromkeys(members, len(members)))
        for learning, sound in zip(members, finite.tolist(), strict=True):
            if not sound:
                lost[learning] = Diverged(f"a loss or a weight is not finite within {steps} steps "
                                          f"{learning.advice(number)}")
            else:
                learning.finish(number, seconds, consolidation[learning], 0)
    return lost, together
