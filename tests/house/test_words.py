"""One thing, one word: what public names may not say, and what committed text may not hold."""

import inspect
import re

import pytest

from tests.house.sources import ROOT, files, modules, public_names

# The right-hand column of the table of words in docs/conventions.md: what each stands for has another name here.
NEVER = {
    "experience": "task", "experiences": "task", "incremental_task": "task",
    "lambda": "strength", "lambd": "strength", "lamb": "strength", "lam": "strength", "reg": "strength",
    "alpha": "say what it weighs: decay, amount, strength", "gamma": "decay", "beta": "say what it weighs",
    "omega": "importance", "fish": "importance", "checkpoint": "anchor",
    "params": "parameters", "param": "parameter", "optim": "optimizer", "lr": "rate", "wd": "weight_decay",
    "mc": "sampled", "nc": "class", "ni": "domain", "sit": "scenario",
    "cfg": "recipe, settings", "config": "recipe, settings", "num": "count it by its noun", "idx": "index",
    "util": "name the concept", "utils": "name the concept", "helper": "name the concept",
    "helpers": "name the concept", "common": "name the concept", "misc": "name the concept",
}
# Names that others gave.
GIVEN = {
    "wandb.config": "the service's own word",
}

PLACES = re.compile(r"(?<![\w.:/-])/(?:work|root|home|Users|opt|mnt|data\d?)/\w|[A-Z]:\\\\Users")
HOSTS = re.compile(r"pypi\.org|pythonhosted\.|test\.pypi|anaconda\.org", re.IGNORECASE)
UNFINISHED = re.compile(r"\b(?:[T]ODO|[F]IXME|[X]{3}|[H]ACK)\b")


def words(name: str) -> list[str]:
    """``"BatchNormShare"`` and ``"batch_norm_share"`` alike: batch, norm, share."""
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", name)]


def spoken() -> dict[str, str]:
    """Every public name with its members and parameters -> where it stands."""
    found = {part: module.__name__ for module in modules() for part in module.__name__.split(".")[1:]}
    for full, value in public_names().items():
        found[full.rpartition(".")[2]] = full
        members = [value]
        if inspect.isclass(value):
            own = {name: member for name, member in vars(value).items() if not name.startswith("_")}
            found.update(dict.fromkeys(own, full))
            members += [member for member in own.values() if inspect.isroutine(member)]
        for member in members:
            try:
                found.update(dict.fromkeys(inspect.signature(member).parameters, full))
            except (TypeError, ValueError):
                continue
    return found


def test_public_names_use_the_words_of_the_house():
    wrong = {
        f"{where}: {name}": NEVER[word]
        for name, where in spoken().items()
        for word in words(name)
        if word in NEVER and f"{where}.{name}" not in GIVEN
    }
    assert not wrong, f"names with their better words: {wrong}"


def test_words_are_told_apart():
    assert words("ewc_lambda") == ["ewc", "lambda"]
    assert words("BatchNormShare") == ["batch", "norm", "share"]
    assert words("EWC") == ["ewc"]
    assert words("L2SP") == ["l", "2", "sp"]


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_committed_text_is_finished_and_names_no_machine(path):
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return  # a picture or another binary
    for pattern, what in ((PLACES, "a path of one machine"), (HOSTS, "a registry's host"), (UNFINISHED, "unfinished")):
        found = pattern.search(text)
        line = text.count("\n", 0, found.start()) + 1 if found else 0
        assert not found, f"{path.relative_to(ROOT)}, line {line}: {what}: {found[0]!r}"


@pytest.mark.parametrize(
    ("pattern", "text"),
    [(PLACES, "open('@home/ada/x')"), (HOSTS, "https:@@PyPI@org/simple"), (UNFINISHED, "# TO@DO: later")],
)
def test_the_patterns_can_find(pattern, text):
    # The sign between keeps this file itself clean.
    assert any(pattern.search(text.replace("@", sign)) for sign in ("/", ".", ""))
