"""Sequences for pretrained image classifiers: what they know, then other data sets, or its own source shifted."""

from __future__ import annotations

from collections.abc import Callable
from operator import methodcaller

import torch
from torch.nn import functional

from forgetting.tasks.agreement import agreement
from forgetting.tasks.clip import Clip
from forgetting.tasks.corruptions import KINDS, corrupted
from forgetting.tasks.data import cifar10, fashion_mnist, mnist
from forgetting.tasks.examples import Examples
from forgetting.tasks.pretrained import Classifier
from forgetting.tasks.sequences import keyed
from forgetting.tasks.sizes import Sizes
from forgetting.tasks.task import DataSplit, Task, TaskSequence
from forgetting.tasks.views import Rotation

STORED = 32  # pixels of CIFAR-10, at which images without a size of their own are kept
TARGETS = ("CIFAR-10", "Fashion-MNIST", "MNIST")
SHIFTS = ("targets", "rotation", "corruption")
SEVERITY = 3  # of 1 to 5


def unlabelled(sizes: Sizes) -> tuple[DataSplit, DataSplit]:
    """CIFAR-10 twice, no image in both: for the source, whose labels nobody looks at, and for the target."""
    whole = cifar10(0, validation=0.0)
    source, target = sizes.of_source(), sizes.of_target()
    train, validation, more, held = _drawn(whole.train, "cifar10 train", (*source[:2], *target[:2]))
    tested, test = _drawn(whole.test, "cifar10 test", (source[2], target[2]))
    return DataSplit(train, validation, tested), DataSplit(more, held, test)


def grayscale(name: str, sizes: Sizes) -> DataSplit:
    """MNIST or Fashion-MNIST with a border to 32 pixels, in three equal channels."""
    read = {"MNIST": mnist, "Fashion-MNIST": fashion_mnist}[name]
    whole = read(0, validation=0.0, padding=2)
    train, validation, test = sizes.of_target()
    learned, held = _drawn(whole.train, f"{name} train", (train, validation))
    (tested,) = _drawn(whole.test, f"{name} test", (test,))
    return DataSplit(learned, held, tested).map(_coloured)


def image_sequence(network: Classifier | Clip, sizes: Sizes, *, source: DataSplit | None = None,
                   shift: str = "targets", targets: tuple[str, ...] = TARGETS) -> TaskSequence:
    """What a classifier knows, then what it adapts to.

    Args:
        network: the classifier; without labels its own answers are what it knows.
        sizes: how many examples a task.
        source: images with their columns among the classifier's; None takes CIFAR-10 images without labels.
        shift: ``"targets"``: data sets with heads of their own, task-incremental; or the source's own images and
            columns, domain-incremental: ``"rotation"``, turned by 90°; ``"corruption"``, under noise, blur, little
            contrast and coarse pixels, a task each.
        targets: which data sets, in order.
    """
    columns = network.classes()
    if source is not None:
        given, about = source, "labels"
    else:
        original = network.original()
        given, about = unlabelled(sizes)[0].map(lambda part: agreement(original, part)), "agreement"
    known = Task.of(f"source ({about})", given, range(columns))
    name = f"{network.name.rpartition('/')[2]}-{shift}"
    if shift != "targets":
        moved = (Task.of(label, change(given), range(columns)) for label, change in _CHANGES[shift].items())
        return TaskSequence(name, (known, *moved), "domain", columns, pretrained=True)
    found = [known]
    for place, target in enumerate(targets):
        parts = unlabelled(sizes)[1] if target == "CIFAR-10" else grayscale(target, sizes)
        parts = parts.map(lambda part: _resized(part, given.train.input_shape[-1]))
        own = torch.arange(columns + 10 * place, columns + 10 * (place + 1))
        found.append(Task.of(target, parts.map(methodcaller("relabelled", own)), own.tolist()))
    return TaskSequence(name, tuple(found), "task", columns + 10 * len(targets), pretrained=True)


def _turned(parts: DataSplit) -> DataSplit:
    return parts.map(methodcaller("viewed", Rotation(90)))


def _worsened(kind: str) -> Callable[[DataSplit], DataSplit]:
    """Each part with noise of its own."""
    return lambda parts: DataSplit(*(corrupted(part, kind, SEVERITY, seed=number) for number, part in
                                     enumerate((parts.train, parts.validation, parts.test))))


_CHANGES: dict[str, dict[str, Callable[[DataSplit], DataSplit]]] = {
    "rotation": {"source turned by 90°": _turned},
    "corruption": {f"source under {kind}": _worsened(kind) for kind in KINDS},
}


def _drawn(examples: Examples, purpose: str, counts: tuple[int, ...]) -> list[Examples]:
    """Disjoint parts of so many examples each, the same in every run."""
    if sum(counts) > len(examples):
        raise ValueError(f"{purpose}: {sum(counts)} examples were asked for, and there are {len(examples)}")
    order = torch.from_numpy(keyed(0, f"retention {purpose}").permutation(len(examples)))
    return [examples.subset(part) for part in order[: sum(counts)].split(list(counts))]


def _bytes(images: torch.Tensor) -> torch.Tensor:
    """Pixels in [0, 1] as bytes."""
    return (255 * images).round().clamp(0, 255).to(torch.uint8)


def _coloured(examples: Examples) -> Examples:
    """Grey images in three channels."""
    return Examples(_bytes(examples.inputs).expand(-1, 3, -1, -1).contiguous(), examples.targets)


def _resized(examples: Examples, pixels: int) -> Examples:
    """The same images at another size."""
    if examples.input_shape[-1] == pixels:
        return examples
    images = functional.interpolate(examples.inputs, (pixels, pixels), mode="bilinear", antialias=True)
    return Examples(_bytes(images), examples.targets)
