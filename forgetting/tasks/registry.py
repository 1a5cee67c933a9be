"""The standard sequences by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from forgetting.tasks import variations
from forgetting.tasks.data import cifar10, cifar100, digits, fashion_mnist, mnist
from forgetting.tasks.pixels import standardized
from forgetting.tasks.sequences import keyed, permute, possible, rotate, split, transfer
from forgetting.tasks.task import SCENARIOS, DataSplit, TaskSequence
from forgetting.tasks.unknown import nearest
from forgetting.tasks.views import Rotation


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
        variations: the names of the variations that :func:`sequence` takes for it.

    Example:
        >>> describe("digits-transfer").pretrained
        True
        >>> describe("rotated-digits").variations
        ('tasks', 'angles', 'interpolation', 'validation', 'padding', 'pixels')
    """

    name: str
    text: str
    scenario: str
    scenarios: tuple[str, ...]
    pretrained: bool
    network: str
    variations: tuple[str, ...]


@dataclass(frozen=True)
class _Entry:
    """A description, and how the sequence is made: of its name, its data, a scenario, a seed and its own variations."""

    description: Description
    data: tuple[Callable[..., DataSplit], ...]
    make: Callable[..., TaskSequence]
    own: Mapping[str, Any]  # its own variations and what they are by default
    classes: int


def _halves(name: str, data: DataSplit, scenario: str, _: int) -> TaskSequence:
    return split(name, data, 2, scenario, pretrained=True)


def _turned(name: str, data: DataSplit, scenario: str, _: int) -> TaskSequence:
    target = data.map(lambda examples: examples.viewed(Rotation(90)))
    return transfer(name, data, target, scenario, names=("digits", "digits turned by 90°"))


def _to_fashion(name: str, source: DataSplit, target: DataSplit, scenario: str, _: int) -> TaskSequence:
    return transfer(name, source, target, scenario, names=("MNIST", "Fashion-MNIST"))


def _split(name: str, data: DataSplit, scenario: str, seed: int, *, tasks: int, order: str) -> TaskSequence:
    classes = 1 + int(data.train.targets.max())
    dealt = keyed(seed, "order of the classes").permutation(classes).tolist() if order == "permuted" else None
    return split(name, data, tasks, scenario, dealt)


def _permuted(name: str, data: DataSplit, scenario: str, seed: int, *, tasks: int) -> TaskSequence:
    return permute(name, data, tasks, scenario, seed=seed)


def _rotated(name: str, data: DataSplit, scenario: str, seed: int, *, tasks: int, angles: str,
             interpolation: str) -> TaskSequence:
    if angles == "drawn":
        turns = [float(keyed(seed, f"angle {number}").uniform(0, 180)) for number in range(tasks)]
    else:
        turns = [180 * number / max(tasks - 1, 1) for number in range(tasks)]
    return rotate(name, data, turns, scenario, interpolation=interpolation)


def _made(
    name: str, text: str, scenarios: tuple[str, ...], data: tuple[Callable[..., DataSplit], ...],
    make: Callable[..., TaskSequence], own: Mapping[str, Any] | None = None, *, pretrained: bool = False,
    network: str = "mlp", classes: int = 10,
) -> _Entry:
    """An entry of the table below."""
    takes = (*(own or {}), *variations.of(scenarios))
    described = Description(name, text, scenarios[0], scenarios, pretrained, network, takes)
    return _Entry(described, data, make, own or {}, classes)


_DOMAIN = ("domain",)
_PAIRS = {"tasks": 5, "order": "fixed"}
_ORDERS = {"tasks": 10}
_ANGLES = {"tasks": 5, "angles": "fixed", "interpolation": "bilinear"}
_ENTRIES = {entry.description.name: entry for entry in (
    _made("digits-transfer", "digits, then the same digits turned by 90°", ("domain", "task", "class"), (digits,),
          _turned, pretrained=True),
    _made("digits-halves", "digits 0-4, then digits 5-9", SCENARIOS, (digits,), _halves, pretrained=True),
    _made("split-digits", "digits in five pairs of classes", SCENARIOS, (digits,), _split, _PAIRS),
    _made("permuted-digits", "digits under ten orders of their pixels", _DOMAIN, (digits,), _permuted, _ORDERS),
    _made("rotated-digits", "digits turned by 0° to 180° in five steps", _DOMAIN, (digits,), _rotated, _ANGLES),
    _made("split-mnist", "MNIST in five pairs of classes", SCENARIOS, (mnist,), _split, _PAIRS),
    _made("permuted-mnist", "MNIST under ten orders of its pixels", _DOMAIN, (mnist,), _permuted, _ORDERS),
    _made("rotated-mnist", "MNIST turned by 0° to 180° in five steps", _DOMAIN, (mnist,), _rotated, _ANGLES),
    _made("split-fashion-mnist", "Fashion-MNIST in five pairs of classes", SCENARIOS, (fashion_mnist,), _split, _PAIRS),
    _made("permuted-fashion-mnist", "Fashion-MNIST under ten orders of its pixels", _DOMAIN, (fashion_mnist,),
          _permuted, _ORDERS),
    _made("rotated-fashion-mnist", "Fashion-MNIST turned by 0° to 180° in five steps", _DOMAIN, (fashion_mnist,),
          _rotated, _ANGLES),
    _made("mnist-fashion-mnist", "MNIST, then Fashion-MNIST", SCENARIOS, (mnist, fashion_mnist), _to_fashion,
          pretrained=True),
    _made("split-cifar10", "CIFAR-10 in five pairs of classes", SCENARIOS, (cifar10,), _split, _PAIRS, network="cnn"),
    _made("cifar10-halves", "CIFAR-10 classes 0-4, then classes 5-9", SCENARIOS, (cifar10,), _halves, pretrained=True,
          network="cnn"),
    _made("split-cifar100", "CIFAR-100 in ten tasks of ten classes", SCENARIOS, (cifar100,), _split,
          {"tasks": 10, "order": "fixed"}, network="cnn", classes=100),
)}


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


def check_variation(name: str, variation: Mapping[str, object], scenario: str | None = None) -> None:
    """Refuse what :func:`sequence` would refuse, without reading data.

    Args:
        name: one of :func:`names`.
        variation: name of a variation -> its value.
        scenario: the scenario that will be asked for; with None, whatever one of the sequence's scenarios allows
            passes.

    Raises:
        ValueError: an unknown sequence, or a variation that it does not take, with the nearest that it does; a value
            outside its range; a scenario that the sequence cannot have.

    **Cost**: none; a table is looked up.

    Example:
        >>> check_variation("split-digits", {"order": "permuted", "tasks": 2})
        >>> check_variation("permuted-digits", {"order": "permuted"})
        Traceback (most recent call last):
        ValueError: permuted-digits: there is no variation 'order'. Known: ...
    """
    entry = _entry(name)
    if scenario is not None:
        possible(name, scenario, entry.description.scenarios)
    scenarios = entry.description.scenarios if scenario is None else (scenario,)
    variations.check(
        name, variation, takes=entry.description.variations, scenarios=scenarios, classes=entry.classes
    )


def sequence(name: str, *, scenario: str | None = None, seed: int = 0, **variation: Any) -> TaskSequence:
    """A standard sequence.

    What the seed decides: which training examples are held out for validation, the permutations of the permuted
    sequences, and what is ``"permuted"`` or ``"drawn"`` by request. What all seeds share: the test examples, and
    without such a request the order of the classes and of the tasks and the angles. All tasks of a sequence cut the
    SAME images into train, validation and test: a test image is in no task's train part, turned or permuted or not.

    =================  =================================================================================================
    variation          what it does; which sequences take it, :func:`describe` says
    =================  =================================================================================================
    ``tasks``          how many: a divisor of the number of classes for split sequences, any number for permuted and
                       rotated ones
    ``order``          ``"fixed"``, or ``"permuted"``: the classes are dealt out in an order that the seed draws
    ``angles``         ``"fixed"``: equal steps from 0° to 180°, or ``"drawn"``: each task's is uniform in [0°, 180°)
    ``interpolation``  ``"bilinear"`` or ``"nearest"``: what a pixel of a turned image takes from those around it
    ``validation``     the share of the training examples that is held out, at least 0 (none) and below 1
    ``padding``        pixels of zeros around each image, on each side
    ``pixels``         ``"unit"``: from 0 to 1, or ``"standard"``: less the mean, over the standard deviation of each
                       channel, taken over all pixels of the (padded) training images, validation included, and rounded
                       to four decimals; a transfer takes its source's
    ``masked``         class-incremental only. True: logits of classes that no task brought yet do not compete, or False
    =================  =================================================================================================

    Args:
        name: one of :func:`names`.
        scenario: ``"task"``, ``"domain"`` or ``"class"``; the sequence's default (:func:`describe`) if None.
        seed: at least 0.
        **variation: from the table above.

    Raises:
        ValueError: an unknown name, with the nearest known one; a scenario that the sequence cannot have, with those
            that it can; a variation that it does not take, with those that it does; a negative seed.
        ImportError, FileNotFoundError: where its data are missing, with how to get them.

    **Cost**: digits, half a megabyte; MNIST and Fashion-MNIST, 55 MB for all tasks together, CIFAR, 184 MB, a byte a
    pixel (twice that while they are split).

    **Reference**: drawn angles: Buzzega et al. 2020, arXiv 2004.07211, and Lopez-Paz & Ranzato 2017, arXiv 1706.08840,
    section 5.1. **Differs**: images are turned bilinearly by default, theirs to the nearest pixel; the latter's
    code draws the k-th task's angle from the k-th of as many equal parts of the range, here it is from all of it.

    Example:
        >>> found = sequence("split-digits")
        >>> len(found), found.scenario, found.input_shape, found[1].outputs
        (5, 'task', (1, 8, 8), (2, 3))
        >>> [task.name for task in sequence("split-digits", order="permuted", tasks=2)]
        ['...', '...']
    """
    entry = _entry(name)
    chosen = entry.description.scenario if scenario is None else scenario
    possible(name, chosen, entry.description.scenarios)
    check_variation(name, variation, chosen)
    keyed(seed, "check")
    options = {kind: variation[kind] for kind in variations.DATA if kind in variation}
    data = [read(seed, **options) for read in entry.data]
    own = {kind: variation.get(kind, default) for kind, default in entry.own.items()}
    found = replace(entry.make(name, *data, chosen, seed, **own), masked=variation.get("masked", True))
    return standardized(found, data[0]) if variation.get("pixels") == "standard" else found
