"""Sequences for pretrained image classifiers: what they know, then CIFAR-10, Fashion-MNIST and MNIST; or a rotation."""

from __future__ import annotations

from dataclasses import dataclass
from operator import methodcaller

import torch
from torch.nn import functional

from forgetting import tasks
from forgetting.tasks import DataSplit, Examples, Rotation, Task, TaskSequence
from forgetting.tasks.agreement import agreement
from forgetting.tasks.pretrained import Classifier
from forgetting.tasks.sequences import keyed

STORED = 32  # pixels of CIFAR-10, at which images without a size of their own are kept
TARGETS = ("CIFAR-10", "Fashion-MNIST", "MNIST")
SHIFTS = ("targets", "rotation")


@dataclass(frozen=True)
class Sizes:
    """How many examples are taken of each task."""

    train: int = 500
    validation: int = 150
    test: int = 200
    source_test: int = 1000

    def of_source(self) -> tuple[int, int, int]:
        """Of the source: to learn from (for methods that look at it), to choose on, to report on."""
        return self.train, 2 * self.validation, self.source_test

    def of_target(self) -> tuple[int, int, int]:
        """Of each target."""
        return self.train, self.validation, self.test


def unlabelled(sizes: Sizes) -> tuple[DataSplit, DataSplit]:
    """CIFAR-10 twice, no image in both: for the source, whose labels nobody looks at, and for the target."""
    whole = tasks.cifar10(0, validation=0.0)
    source, target = sizes.of_source(), sizes.of_target()
    train, validation, more, held = _drawn(whole.train, "cifar10 train", (*source[:2], *target[:2]))
    tested, test = _drawn(whole.test, "cifar10 test", (source[2], target[2]))
    return DataSplit(train, validation, tested), DataSplit(more, held, test)


def grayscale(name: str, sizes: Sizes) -> DataSplit:
    """MNIST or Fashion-MNIST with a border to 32 pixels, in three equal channels."""
    read = {"MNIST": tasks.mnist, "Fashion-MNIST": tasks.fashion_mnist}[name]
    whole = read(0, validation=0.0, padding=2)
    train, validation, test = sizes.of_target()
    learned, held = _drawn(whole.train, f"{name} train", (train, validation))
    (tested,) = _drawn(whole.test, f"{name} test", (test,))
    return DataSplit(learned, held, tested).map(_coloured)


def sequence(network: Classifier, sizes: Sizes, *, source: DataSplit | None = None, shift: str = "targets",
             targets: tuple[str, ...] = TARGETS) -> TaskSequence:
    """What a classifier knows, then what it adapts to.

    Args:
        network: the classifier; without labels its own answers are what it knows.
        sizes: how many examples a task.
        source: images with their columns among the classifier's; None takes CIFAR-10 images without labels.
        shift: ``"targets"``: data sets with heads of their own, task-incremental; ``"rotation"``: the source's own
            images and columns, turned by 90°, domain-incremental.
        targets: which data sets, in order.
    """
    original = network.original()
    columns = network.classes()
    if source is not None:
        given, about = source, "labels"
    else:
        given, about = unlabelled(sizes)[0].map(lambda part: agreement(original, part)), "agreement"
    known = Task.of(f"source ({about})", given, range(columns))
    if shift == "rotation":
        turned = Task.of("source turned by 90°", given.map(lambda part: part.viewed(Rotation(90))), range(columns))
        return TaskSequence(f"{network.name}-rotation", (known, turned), "domain", columns, pretrained=True)
    found = [known]
    for place, name in enumerate(targets):
        parts = unlabelled(sizes)[1] if name == "CIFAR-10" else grayscale(name, sizes)
        parts = parts.map(lambda part: _resized(part, given.train.input_shape[-1]))
        own = torch.arange(columns + 10 * place, columns + 10 * (place + 1))
        found.append(Task.of(name, parts.map(methodcaller("relabelled", own)), own.tolist()))
    total = columns + 10 * len(targets)
    return TaskSequence(f"{network.name}-targets", tuple(found), "task", total, pretrained=True)


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
