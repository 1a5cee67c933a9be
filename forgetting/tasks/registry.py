"""The standard sequences by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from forgetting.tasks.data import digits, mnist
from forgetting.tasks.sequences import keyed, permute, possible, rotate, split, transfer
from forgetting.tasks.task import SCENARIOS, DataSplit, TaskSequence
from forgetting.tasks.unknown import nearest
from forgetting.tasks.views import Rotation

_ANGLES = (0, 45, 90, 135, 180)


@dataclass(frozen=True)
class Description:
    """What a named sequence is, without its data.

    Args:
        name: its name.
        text: one line about it.
        scenario: the default scenario.
        scenarios: all that are possible.
        pretrained: whether its first task is a source that the model knows before.
        network: the default network's name.

    Example:
        >>> describe("digits-transfer").pretrained
        True
    """

    name: str
    text: str
    scenario: str
    scenarios: tuple[str, ...]
    pretrained: bool
    network: str


@dataclass(frozen=True)
class _Entry:
    """A description, and how the sequence is made from (name, data, scenario, seed)."""

    description: Description
    data: Callable[[int], DataSplit]
    make: Callable[[str, DataSplit, str, int], TaskSequence]


def _halves(name: str, data: DataSplit, scenario: str, _: int) -> TaskSequence:
    return split(name, data, 2, scenario, pretrained=True)


def _turned(name: str, data: DataSplit, scenario: str, _: int) -> TaskSequence:
    target = data.map(lambda examples: examples.viewed(Rotation(90)))
    return transfer(name, data, target, scenario, names=("digits", "digits turned by 90°"))


def _pairs(name: str, data: DataSplit, scenario: str, _: int) -> TaskSequence:
    return split(name, data, 5, scenario)


def _permuted(name: str, data: DataSplit, scenario: str, seed: int) -> TaskSequence:
    return permute(name, data, 10, scenario, seed=seed)


def _rotated(name: str, data: DataSplit, scenario: str, _: int) -> TaskSequence:
    return rotate(name, data, _ANGLES, scenario)


def _entries() -> dict[str, _Entry]:
    rows: list[tuple[str, str, tuple[str, ...], bool, Callable[[int], DataSplit], Callable]] = [
        ("digits-transfer", "digits, then the same digits turned by 90°", ("domain", "task", "class"), True,
         digits, _turned),
        ("digits-halves", "digits 0-4, then digits 5-9", SCENARIOS, True, digits, _halves),
        ("split-digits", "digits in five pairs of classes", SCENARIOS, False, digits, _pairs),
        ("permuted-digits", "digits under ten orders of their pixels", ("domain",), False, digits, _permuted),
        ("rotated-digits", "digits turned by 0° to 180° in five steps", ("domain",), False, digits, _rotated),
        ("split-mnist", "MNIST in five pairs of classes", SCENARIOS, False, mnist, _pairs),
        ("permuted-mnist", "MNIST under ten orders of its pixels", ("domain",), False, mnist, _permuted),
        ("rotated-mnist", "MNIST turned by 0° to 180° in five steps", ("domain",), False, mnist, _rotated),
    ]
    return {
        name: _Entry(Description(name, text, scenarios[0], scenarios, pretrained, "mlp"), data, make)
        for name, text, scenarios, pretrained, data, make in rows
    }


_ENTRIES = _entries()


def names() -> tuple[str, ...]:
    """The names of the standard sequences.

    Example:
        >>> names()[:2]
        ('digits-transfer', 'digits-halves')
    """
    return tuple(_ENTRIES)


def _entry(name: str) -> _Entry:
    if name not in _ENTRIES:
        raise ValueError(nearest("sequence", name, _ENTRIES))
    return _ENTRIES[name]


def describe(name: str) -> Description:
    """What a named sequence is, without reading its data.

    Args:
        name: one of :func:`names`.

    Raises:
        ValueError: an unknown name, with the nearest known one.

    Example:
        >>> describe("split-mnist").text
        'MNIST in five pairs of classes'
    """
    return _entry(name).description


def sequence(name: str, *, scenario: str | None = None, seed: int = 0) -> TaskSequence:
    """A standard sequence.

    What the seed decides: which training examples are held out for validation, and the permutations of the permuted
    sequences. What all seeds share: the test examples, the order of the classes and of the tasks, the angles. All
    tasks of a sequence cut the SAME images into train, validation and test: a test image is in no task's train part,
    turned or permuted or not.

    Args:
        name: one of :func:`names`.
        scenario: ``"task"``, ``"domain"`` or ``"class"``; the sequence's default (:func:`describe`) if None.
        seed: at least 0.

    Raises:
        ValueError: an unknown name, with the nearest known one; a scenario that the sequence cannot have, with those
            that it can; a negative seed.
        ImportError, FileNotFoundError: where its data are missing, with how to get them.

    **Cost**: digits, half a megabyte; MNIST, 55 MB for all tasks together, a byte a pixel (twice that while it is
    split).

    Example:
        >>> found = sequence("split-digits")
        >>> len(found), found.scenario, found.input_shape, found[1].outputs
        (5, 'task', (1, 8, 8), (2, 3))
    """
    entry = _entry(name)
    chosen = entry.description.scenario if scenario is None else scenario
    possible(name, chosen, entry.description.scenarios)
    keyed(seed, "check")
    return entry.make(name, entry.data(seed), chosen, seed)
