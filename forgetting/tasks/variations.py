"""How a standard sequence may vary: the names of its variations, and what each of them takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from forgetting.tasks.unknown import nearest

DATA = ("validation", "padding")  # how the data are read


def of(scenarios: Sequence[str]) -> tuple[str, ...]:
    """The variations of every sequence with those scenarios."""
    return (*DATA, "pixels", *(("masked",) if "class" in scenarios else ()))


def check(
    name: str, variation: Mapping[str, object], *, takes: tuple[str, ...], scenarios: Sequence[str], classes: int
) -> None:
    """Refuse a variation that a sequence of that name, those scenarios and that number of classes cannot take."""
    if not isinstance(variation, Mapping):
        raise TypeError(f"variation= takes names with their values, such as {{'tasks': 2}}, not {variation!r}; on the "
                        "command line: --set 'recipe.variation={\"tasks\": 2}'")
    for kind, value in variation.items():
        if kind not in takes:
            raise ValueError(f"{name}: {nearest('variation', kind, takes)}")
        _CHECKS[kind](kind, value)
    number = variation.get("tasks")
    if isinstance(number, int) and "order" in takes and classes % number:
        divisors = [count for count in range(1, classes + 1) if classes % count == 0]
        raise ValueError(f"{name}: {classes} classes do not divide into {number} tasks; possible: {divisors}")
    if variation.get("masked", True) is False and "class" not in scenarios:
        raise ValueError(
            f"{name}: masked=False lets the logits of classes that no task brought yet compete, which is for the "
            f"scenario 'class', not for {' or '.join(map(repr, scenarios))}; leave it out or ask for that scenario"
        )


def _one_of(*known: str) -> Callable[[str, object], None]:
    """A check for one of a few words."""
    def refuse(kind: str, value: object) -> None:
        if value not in known:
            raise ValueError(f"{kind}={value!r}; it is one of {', '.join(map(repr, known))}")

    return refuse


def _whole(lowest: int) -> Callable[[str, object], None]:
    """A check for a whole number."""
    def refuse(kind: str, value: object) -> None:
        if type(value) is not int or value < lowest:
            raise ValueError(f"{kind}={value!r}; expected a whole number of at least {lowest}")

    return refuse


def _share(kind: str, value: object) -> None:
    """A check for a share that leaves something."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
        raise ValueError(f"{kind}={value!r}; expected a share of at least 0 and below 1 (0: none is held out)")


def _truth(kind: str, value: object) -> None:
    """A check for True or False."""
    if not isinstance(value, bool):
        raise ValueError(f"{kind}={value!r}; expected True or False")


_CHECKS: dict[str, Callable[[str, object], None]] = {
    "validation": _share,
    "padding": _whole(0),
    "pixels": _one_of("unit", "standard"),
    "masked": _truth,
    "order": _one_of("fixed", "permuted"),
    "tasks": _whole(1),
    "angles": _one_of("fixed", "drawn"),
    "interpolation": _one_of("bilinear", "nearest"),
}
