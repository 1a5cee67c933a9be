"""How far apart the tasks of stored runs were, measured on the model that knew the source and before anything else."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import forgetting.fisher
from forgetting.fisher.batches import Batch, default_forward, unwrap
from forgetting.parameters import evaluating
from forgetting.protocol import Method, Recipe, Result, Store
from forgetting.protocol.measure import placed
from forgetting.protocol.recipe import DTYPES, derive
from forgetting.protocol.store import DamagedFile, files
from forgetting.report.groups import BASELINE, experiments
from forgetting.report.nearness import Pair, Similarities
from forgetting.similarity import fisher_distance, measure
from forgetting.tasks import Examples, TaskSequence

EXAMPLES = 1000
_BATCH = 200
_EXACT = 32  # outputs, up to which a backward pass for each is no matter


def similarities(store: Store) -> Similarities:
    """How far each target of the plain fine-tunings in a store is from their source, before training.

    The sequence is made again from its name and seed, the model that knew the source is read from what the runs of the
    store share (the pretraining, or the first task), and :func:`forgetting.similarity.measure` and
    :func:`~forgetting.similarity.fisher_distance` look at 1000 training examples of either task, drawn by the seed.
    The figures are kept in the store, ``similarity/KEY.json``, and are not measured twice.

    Args:
        store: of finished runs.

    Returns:
        One :class:`Pair` a run and target, with the accuracy that the source lost while that target was learned; and
        why runs were left out.

    **Cost**: of each seed two passes a target and the measures' own, a few seconds; nothing where they are kept.
    """
    pairs: list[Pair] = []
    reasons: dict[str, None] = {}
    runs = [result for result in store.results() if result.method == BASELINE and len(result.tasks) > 1]
    if not runs:
        return Similarities((), ("the store holds no plain fine-tuning of several tasks",))
    for about, run in _named(runs):
        try:
            figures = _kept(store, run)
        except (KeyError, ValueError, TypeError, FileNotFoundError, ModuleNotFoundError) as error:
            reasons[f"{run.recipe['sequence']}, seed {run.seed}: {error.args[0] if error.args else error}"] = None
            continue
        pairs += _pairs(about, run, figures)
    return Similarities(tuple(pairs), tuple(reasons))


def _named(runs: Iterable[Result]) -> Iterator[tuple[str, Result]]:
    """Every run with words that it shares with its other seeds alone."""
    for experiment in experiments(runs):
        network = str(experiment.shared["network"])
        title = experiment.title if f"network {network}" in experiment.title else f"{experiment.title}, {network}"
        for group in experiment.groups:
            for run in group.runs.values():
                yield f"{title}{group.label.removeprefix(group.name)}", run


def _pairs(about: str, run: Result, figures: Iterable[dict[str, float]]) -> Iterator[Pair]:
    """Each target's figures beside what its learning cost the source."""
    for number, found in enumerate(figures, 2):
        lost = float(run.accuracy[number - 1, 0] - run.accuracy[number, 0])
        yield Pair(about, number, run.seed, found, lost)


def _kept(store: Store, run: Result) -> list[dict[str, float]]:
    """The figures of each target, from the store or measured and put there."""
    recipe = Recipe(**{**run.recipe, "method": Method(BASELINE)})
    sequence = recipe.sequence_of(run.seed)
    fingerprint = sequence.fingerprint()
    if fingerprint != run.provenance.get("data"):
        raise ValueError("its data or its network cannot be made again from its name (another version of the data, or "
                         "a network that was a function)")
    key = (recipe.pretraining_key if sequence.pretrained else recipe.first_task_key)(run.seed, fingerprint)
    path = store.path / "similarity" / f"{key}.json"
    with store.claim(f"similarity-{key}"):
        try:
            return _read(path)
        except (FileNotFoundError, DamagedFile):
            pass
        model = recipe.model_of(sequence, run.seed)
        if not sequence.pretrained or recipe.pretraining_epochs:
            shared = store.shared(key, recipe.device)
            if shared is None:
                raise ValueError(f"the weights that knew the source are not in the store (shared/{key})")
            model.load_state_dict(shared[1] if sequence.pretrained else shared[1]["model"])
        found = _measured(model, placed(sequence, recipe.device, DTYPES[recipe.dtype]), run.seed)
        files.write_json(path, {"sequence": run.recipe["sequence"], "seed": run.seed, "examples": EXAMPLES,
                                "tasks": list(run.tasks), "figures": found})
        return found


def _read(path: Path) -> list[dict[str, float]]:
    return files.read_json(path)["figures"]


def _measured(model: nn.Module, sequence: TaskSequence, seed: int) -> list[dict[str, float]]:
    """All figures of each target."""
    head = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    if not head:
        raise ValueError("its network has no linear layer, whose input would be the features")
    columns = list(sequence.columns(0, 1))
    parts = [_drawn(task.train, derive(seed, "similarity", number)) for number, task in enumerate(sequence)]
    matrices = [_importance(model, data, columns, seed) for data in parts]
    found = []
    for data, matrix in zip(parts[1:], matrices[1:], strict=True):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of few examples for many features: the page says how many
            figures = measure(model, parts[0], data, module=head[-1], outputs=columns)
        found.append({**figures, "fisher_distance": fisher_distance(matrices[0], matrix)})
    return found


def _importance(model: nn.Module, data: list[tuple[Tensor, Tensor]], columns: list[int], seed: int) -> Any:
    """The Fisher diagonal of the model on a task, whose class numbers need not be among its outputs."""
    def forward(network: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        logits = unwrap(default_forward(network, batch)[0])
        own = torch.tensor(columns, device=logits.device)
        return logits, own[logits.detach().index_select(1, own).argmax(1)]

    with evaluating(model):
        return forgetting.fisher.diagonal(model, data, labels="exact" if len(columns) <= _EXACT else "sampled",
                                          outputs=columns, forward=forward,
                                          generator=torch.Generator().manual_seed(derive(seed, "labels")))


def _drawn(examples: Examples, seed: int) -> list[tuple[Tensor, Tensor]]:
    """Batches of at most as many examples, drawn."""
    order = torch.Generator().manual_seed(seed)
    found, left = [], EXAMPLES
    for inputs, targets in examples.batches(_BATCH, shuffle=True, generator=order):
        found.append((inputs[:left], targets[:left]))
        left -= len(inputs)
        if left <= 0:
            break
    return found
