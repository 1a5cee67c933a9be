"""Every public name says what it is, what it takes, what it costs, where it comes from, and shows itself at work."""

import dataclasses
import inspect
import re
from fnmatch import fnmatchcase

import pytest

from forgetting.regularizers import Regularizer
from tests.house.sources import public_names, rooms

SECTIONS = {
    "Args": r"^Args:",
    "Cost": r"^\*\*Cost\*\*|^Cost:",
    "Reference": r"^\*\*Reference\*\*|^Reference:",
    "Differs": r"\*\*Differs\*\*|^Differs:",
    "Example": r">>> ",
}
# Where a paper stands behind every function.
FROM_PAPERS = ("forgetting.freezing", "forgetting.rates", "forgetting.averaging", "forgetting.similarity",
               "forgetting.protocol.metrics")

# The one table of exemptions: where a name is defined -> sections it does without, and why.
EXEMPT: dict[str, tuple[set[str], str]] = {
    "forgetting.protocol.metrics.*": ({"Cost"}, "arithmetic on a matrix of a few numbers"),
    "forgetting.protocol.statistics.*": ({"Cost"}, "arithmetic on a few numbers"),
    "forgetting.protocol.metrics.retention": ({"Reference", "Differs"}, "defined here; no paper fixes it"),
    "forgetting.protocol.metrics.adaptation": ({"Reference", "Differs"}, "defined here; no paper fixes it"),
    "forgetting.similarity.measuring.measure": ({"Reference", "Differs"}, "each measure states its own"),
    "forgetting.parameters.*": ({"Cost"}, "looks at names; what copies says so"),
    "forgetting.methods.*": ({"Cost"}, "looks up a table; a method costs when it runs"),
    "forgetting.tasks.registry.names": ({"Cost"}, "looks up a table"),
    "forgetting.tasks.registry.describe": ({"Cost"}, "looks up a table"),
    "forgetting.tasks.networks.network": ({"Cost"}, "the size of the network is its name's"),
    "forgetting.fisher.elementwise.*": ({"Cost"}, "a likelihood costs as many backwards as `diagonal` says"),
    "forgetting.fisher.likelihoods.*": ({"Cost"}, "a likelihood costs as many backwards as `diagonal` says"),
    "forgetting.tasks.data.*mnist": ({"Example"}, "needs data that not every machine has"),
    "forgetting.tasks.data.cifar*": ({"Example"}, "needs data that not every machine has"),
    "forgetting.report.*": ({"Example"}, "needs results, which need minutes; the command's tests run it"),
    "forgetting.regularizers.consolidated.Consolidated": ({"Example"}, "regularizers make it; nobody does by hand"),
}

PUBLIC = public_names()


def abstract(value: object) -> bool:
    """An interface: its methods are described, and it cannot be made by itself."""
    return inspect.isclass(value) and (inspect.isabstract(value) or getattr(value, "_is_protocol", False))


def value_like(value: object) -> bool:
    """State that belongs together: it does nothing, so it costs nothing and comes from no paper."""
    return inspect.isclass(value) and (dataclasses.is_dataclass(value) or issubclass(value, tuple | Exception))


def parameters(value: object) -> list[str]:
    """What a caller passes."""
    try:
        found = inspect.signature(value).parameters.values()
    except (TypeError, ValueError):
        return []
    return [item.name for item in found if item.name not in ("self", "args") and item.kind != item.VAR_KEYWORD]


def required(value: object) -> set[str]:
    """The sections that a name of this kind needs."""
    if abstract(value):
        return set()
    needed = {"Example"}
    if parameters(value):
        needed.add("Args")
    if not value_like(value):
        needed.add("Cost")
    concrete = inspect.isclass(value) and issubclass(value, Regularizer)
    if concrete or (inspect.isroutine(value) and value.__module__.startswith(FROM_PAPERS)):
        needed |= {"Reference", "Differs"}
    return needed


def home(value: object) -> str:
    """Where a name is defined, from wherever it is offered."""
    return f"{value.__module__}.{value.__qualname__}"


def exempt(value: object) -> set[str]:
    """The sections that the table excuses."""
    return set().union(*(sections for pattern, (sections, _) in EXEMPT.items() if fnmatchcase(home(value), pattern)))


def missing(docstring: str, needed: set[str]) -> set[str]:
    """The sections that a docstring lacks."""
    return {name for name in needed if not re.search(SECTIONS[name], docstring, re.MULTILINE)}


def described(docstring: str) -> set[str]:
    """The names that the Args section describes; ``a, b: …`` describes two."""
    section = re.search(r"^Args:\n((?:[ \t]+.*\n|\n)*)", docstring + "\n", re.MULTILINE)
    lines = re.findall(r"^ {4}(\w[\w, *]*?)(?: \([^)]*\))?:", section[1] if section else "", re.MULTILINE)
    return {name.strip(" *") for line in lines for name in line.split(",")}


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_name_is_documented(name):
    docstring = inspect.getdoc(PUBLIC[name]) or ""
    first = re.split(r"\n\s*\n", docstring)[0]
    assert re.search(r"[.:]\W*$", first), f"{name} needs a docstring that begins with a sentence"
    without = exempt(PUBLIC[name])
    lacking = missing(docstring, required(PUBLIC[name]) - without)
    assert not lacking, f"the docstring of {name} lacks {sorted(lacking)}"
    if "Args" in required(PUBLIC[name]) - without:
        silent = set(parameters(PUBLIC[name])) - described(docstring)
        assert not silent, f"the docstring of {name} does not describe {sorted(silent)}"


@pytest.mark.parametrize("name", [name for name, value in PUBLIC.items() if inspect.isclass(value)])
def test_public_methods_have_docstrings(name):
    bare = [
        key
        for key, member in vars(PUBLIC[name]).items()
        if not key.startswith("_")
        and (inspect.isroutine(member) or isinstance(member, property | classmethod | staticmethod))
        and not inspect.getdoc(getattr(PUBLIC[name], key))
    ]
    assert not bare, f"{name} has methods without a docstring: {bare}"


def test_every_room_says_what_it_offers():
    assert [room.__name__ for room in rooms() if not hasattr(room, "__all__")] == []


@pytest.mark.parametrize("pattern", EXEMPT)
def test_an_exemption_is_needed_and_has_a_reason(pattern):
    sections, reason = EXEMPT[pattern]
    assert reason
    lacking = [
        missing(inspect.getdoc(value) or "", required(value)) & sections
        for value in PUBLIC.values()
        if fnmatchcase(home(value), pattern)
    ]
    assert lacking, f"nothing is called {pattern}"
    assert set().union(*lacking) == sections, f"nothing under {pattern} needs this exemption any longer"


def test_what_lacks_is_found():
    text = "Does it.\n\nArgs:\n    one, two: numbers.\n    three (int): a number.\n\n**Cost**: none.\n"
    assert missing(text, set(SECTIONS)) == {"Reference", "Differs", "Example"}
    assert described(text) == {"one", "two", "three"}
