"""Making task sequences of any data: by classes, by permuted pixels, by rotation, by going over to another data set."""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Sequence
from functools import partial
from operator import methodcaller

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from forgetting.tasks.examples import Examples
from forgetting.tasks.task import SCENARIOS, DataSplit, Task, TaskSequence
from forgetting.tasks.views import Permutation, Rotation, View


def keyed(seed: int, purpose: str) -> np.random.RandomState:
    """A generator of its own for one purpose of one seed; numpy keeps this class's stream fixed for ever."""
    try:
        number = operator.index(seed)
    except TypeError:
        raise TypeError(f"a seed is an integer, not {seed!r}") from None
    if number < 0:
        raise ValueError(f"a seed is at least 0, not {number}")
    digest = hashlib.sha256(f"{purpose} {number}".encode()).digest()
    return np.random.RandomState(np.frombuffer(digest, dtype="<u4").astype(np.uint32))


def hold_out(targets: Tensor, share: float, random: np.random.RandomState) -> tuple[Tensor, Tensor]:
    """Indices of a stratified share and of the rest, each ascending: of every class round(share · its number).

    Raises:
        ValueError: where the share is not between 0 and 1, or nothing falls to one of the two sides.
    """
    if not 0 < share < 1:
        raise ValueError(f"the share that is held out lies between 0 and 1, not {share}")
    held = torch.zeros(len(targets), dtype=torch.bool)
    for label in torch.bincount(targets).nonzero().flatten().tolist():
        places = (targets == label).nonzero().flatten().cpu()
        held[places[torch.from_numpy(random.permutation(len(places)))][: round(share * len(places))]] = True
    if held.all() or not held.any():
        raise ValueError(f"a share of {share} of {len(targets)} examples leaves one of the two sides empty")
    return held.nonzero().flatten(), (~held).nonzero().flatten()


def data_split(
    train: Dataset | Examples, test: Dataset | Examples, *, validation: float = 0.1, seed: int = 0
) -> DataSplit:
    """A data set's own training and test part, with a stratified share of the former held out for validation.

    Args:
        train: (input, label) pairs, see :meth:`Examples.of`; labels are columns of the logits.
        test: likewise; it goes into the split whole and does not depend on the seed.
        validation: the share of each class of ``train`` that is held out, at least 0 and below 1; 0 holds nothing out
            (the validation part is empty), as protocols do that train on everything.
        seed: decides which examples are held out.

    Raises:
        ValueError: where a side would be empty, or the seed is negative.

    **Cost**: one pass over each data set; all of it in memory.

    Example:
        >>> pairs = torch.utils.data.TensorDataset(torch.rand(20, 4), torch.arange(20) % 2)
        >>> [len(part) for part in data_split(pairs, pairs, validation=0.2)]
        [16, 4, 20]
    """
    everything = Examples.of(train)
    if validation == 0:
        keyed(seed, "check")
        return DataSplit(everything, everything.subset([]), Examples.of(test))
    held, rest = hold_out(everything.targets, validation, keyed(seed, "validation"))
    return DataSplit(everything.subset(rest), everything.subset(held), Examples.of(test))


def split(
    name: str, source: DataSplit, parts: int, scenario: str = "task", order: Sequence[int] | None = None,
    *, pretrained: bool = False,
) -> TaskSequence:
    """One task for each group of classes.

    Task- and class-incremental tasks keep the labels as columns; domain-incremental ones share as many columns as a
    group has classes, and the i-th class of each group goes to column i (in the natural order of ten digits in five
    groups: y mod 2).

    Args:
        name: the sequence's name.
        source: its examples; labels are 0 … classes − 1.
        parts: how many tasks; it divides the number of classes.
        scenario: ``"task"``, ``"domain"`` or ``"class"``.
        order: the classes in the order in which they are dealt out; the natural one by default.
        pretrained: whether the first task is a source that the model knows already.

    Raises:
        ValueError: where the parts do not divide the classes, or the order is not one of the classes.

    **Cost**: one copy of the examples as they are stored.

    **Reference**: Zenke, Poole & Ganguli 2017, arXiv 1703.04200, section 5.1. **Differs**: nothing.

    Example:
        >>> pairs = torch.utils.data.TensorDataset(torch.rand(40, 4), torch.arange(40) % 4)
        >>> [(task.name, task.outputs) for task in split("pairs", data_split(pairs, pairs), parts=2)]
        [('0-1', (0, 1)), ('2-3', (2, 3))]
    """
    total = _classes(source)
    if parts < 1 or total % parts:
        divisors = [number for number in range(1, total + 1) if total % number == 0]
        raise ValueError(f"{total} classes do not divide into {parts} tasks; possible: {divisors}")
    dealt = list(range(total)) if order is None else [int(label) for label in order]
    if sorted(dealt) != list(range(total)):
        raise ValueError(f"order must name each of the classes 0…{total - 1} once, not {dealt}")
    size = total // parts
    tasks = []
    for first in range(0, total, size):
        group = dealt[first : first + size]
        columns = torch.arange(total)
        if scenario == "domain":
            columns[group] = torch.arange(size)
        chosen = source.map(partial(_of_classes, classes=group, columns=columns))
        tasks.append(Task.of("-".join(map(str, group)), chosen, columns[group].tolist()))
    return TaskSequence(name, tuple(tasks), scenario, size if scenario == "domain" else total, pretrained)


def permute(
    name: str, source: DataSplit, tasks: int, scenario: str = "domain", *, seed: int = 0, pretrained: bool = False
) -> TaskSequence:
    """The same examples under a new order of the pixels for each task; the first task keeps the natural one.

    Args:
        name: the sequence's name.
        source: its examples.
        tasks: how many, at least 1.
        scenario: only ``"domain"``: the classes stay the same.
        seed: decides the orders; the k-th task's does not depend on how many follow.
        pretrained: whether the first task is a source that the model knows already.

    Raises:
        ValueError: another scenario, no tasks, or a negative seed.

    **Cost**: none beyond the source's memory: the order is applied as a batch is cut.

    **Reference**: Kirkpatrick et al. 2017, arXiv 1612.00796, section 2.1. **Differs**: nothing.

    Example:
        >>> pairs = torch.utils.data.TensorDataset(torch.rand(20, 1, 4, 4), torch.arange(20) % 2)
        >>> [task.name for task in permute("permuted", data_split(pairs, pairs), tasks=3)]
        ['natural', 'permutation 1', 'permutation 2']
    """
    possible("permute", scenario, ("domain",))
    shape = source.train.input_shape
    pixels = int(np.prod(shape[1:] if len(shape) > 2 else shape))
    views: dict[str, View | None] = {"natural": None}
    for number in range(1, tasks):
        order = torch.from_numpy(keyed(seed, f"permutation {number}").permutation(pixels).astype(np.int64))
        views[f"permutation {number}"] = Permutation(order)
    if tasks < 1:
        raise ValueError(f"a sequence has at least one task, not {tasks}")
    return _seen(name, source, views, pretrained)


def rotate(
    name: str, source: DataSplit, angles: Sequence[float], scenario: str = "domain", *, pretrained: bool = False,
    interpolation: str = "bilinear",
) -> TaskSequence:
    """The same examples, turned by one angle a task.

    Args:
        name: the sequence's name.
        source: images [channels, height, width].
        angles: in degrees, counter-clockwise; see :class:`Rotation`.
        scenario: only ``"domain"``: the classes stay the same.
        pretrained: whether the first task is a source that the model knows already.
        interpolation: ``"bilinear"`` or ``"nearest"``, see :class:`Rotation`.

    Raises:
        ValueError: another scenario or interpolation, no angle, one that comes twice, or inputs that are no images.

    **Cost**: none beyond the source's memory: images are turned as a batch is cut.

    **Reference**: Lopez-Paz & Ranzato 2017, arXiv 1706.08840, section 5.1. **Differs**: the angles are given, not
    drawn.

    Example:
        >>> pairs = torch.utils.data.TensorDataset(torch.rand(20, 1, 4, 4), torch.arange(20) % 2)
        >>> [task.name for task in rotate("turned", data_split(pairs, pairs), angles=[0, 45, 90])]
        ['0°', '45°', '90°']
    """
    possible("rotate", scenario, ("domain",))
    views: dict[str, View | None] = {f"{angle:g}°": Rotation(angle, interpolation) if angle else None
                                     for angle in angles}
    if len(views) < len(angles) or not views:
        raise ValueError(f"rotate takes at least one angle and each once, not {list(angles)}")
    return _seen(name, source, views, pretrained)


def transfer(
    name: str, source: DataSplit, target: DataSplit, scenario: str = "domain", *,
    names: tuple[str, str] = ("source", "target"), pretrained: bool = True,
) -> TaskSequence:
    """Two tasks: what a pretrained model knows, and what it adapts to.

    Args:
        name: the sequence's name.
        source: labels 0 … a − 1.
        target: labels 0 … b − 1.
        scenario: ``"domain"``: both share the columns, and column y is the same class in both. ``"task"`` and
            ``"class"``: the target's classes get columns of their own, a … a + b − 1.
        names: the two tasks' names.
        pretrained: whether the model knows the source before the sequence begins.

    Raises:
        ValueError: an unknown scenario, or inputs of different shapes.

    **Cost**: none beyond the memory of both.

    Example:
        >>> pairs = torch.utils.data.TensorDataset(torch.rand(20, 4), torch.arange(20) % 2)
        >>> source, target = data_split(pairs, pairs), data_split(pairs, pairs, seed=1)
        >>> [task.outputs for task in transfer("there", source, target, scenario="task")]
        [(0, 1), (2, 3)]
    """
    possible("transfer", scenario, SCENARIOS)
    ours, theirs = _classes(source), _classes(target)
    if scenario == "domain":
        total = max(ours, theirs)
        outputs = (tuple(range(total)),) * 2
    else:
        total = ours + theirs
        outputs = (tuple(range(ours)), tuple(range(ours, total)))
        target = target.map(lambda examples: examples.relabelled(torch.arange(ours, total)))
    tasks = (Task.of(names[0], source, outputs[0]), Task.of(names[1], target, outputs[1]))
    return TaskSequence(name, tasks, scenario, total, pretrained)


def possible(name: str, scenario: str, scenarios: Sequence[str]) -> None:
    """Refuse a scenario that is not among those given."""
    if scenario not in scenarios:
        raise ValueError(f"{name} cannot be {scenario!r}-incremental; possible: {', '.join(map(repr, scenarios))}")


def _classes(source: DataSplit) -> int:
    """One more than the greatest label."""
    return 1 + max(int(examples.targets.max()) if len(examples) else 0 for examples in source)


def _of_classes(examples: Examples, classes: Sequence[int], columns: Tensor) -> Examples:
    """Those whose label is one of these, with the column of each label as their target."""
    wanted = torch.tensor(list(classes), device=examples.device)
    return examples.subset(torch.isin(examples.targets, wanted).nonzero().flatten()).relabelled(columns)


def _seen(name: str, source: DataSplit, views: dict[str, View | None], pretrained: bool) -> TaskSequence:
    """A domain-incremental sequence: the same examples through one view a task."""
    total = _classes(source)
    tasks = []
    for label, view in views.items():
        parts = source if view is None else source.map(methodcaller("viewed", view))
        tasks.append(Task.of(label, parts, range(total)))
    return TaskSequence(name, tuple(tasks), "domain", total, pretrained)
