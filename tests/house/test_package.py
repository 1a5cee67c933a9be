"""What is installed is what is said: bounds, extras, versions, targets, and the files that go along."""

import ast
import re
import sys

import pytest

from tests.house.sources import ROOT, files

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
BROUGHT = {"PIL", "markupsafe"}  # by torchvision, by jinja2
MODULES = {"scikit-learn": "sklearn", "avalanche-lib": "avalanche", "pytorch-lightning": "pytorch_lightning"}


def bounds(requirements: list[str]) -> dict[str, str]:
    """Name -> lower bound."""
    return dict(re.match(r"([\w-]+)>=([\d.]+)", text).groups() for text in requirements)


def same_version(left: str, right: str) -> bool:
    """Whether two releases are equal, ``2.6`` and ``2.6.0`` alike."""
    def parts(text: str) -> list[int]:
        numbers = [int(part) for part in text.split(".")]
        return numbers + [0] * (4 - len(numbers))
    return parts(left) == parts(right)


def test_the_oldest_pins_are_the_lower_bounds():
    stated = bounds(PROJECT["dependencies"] + EXTRAS["digits"] + EXTRAS["report"])
    lines = (ROOT / "tests" / "oldest.txt").read_text(encoding="utf-8").splitlines()
    pinned = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    assert stated.keys() == pinned.keys()
    assert {name: pin for name, pin in pinned.items() if not same_version(pin, stated[name])} == {}


def test_no_dependency_has_an_upper_bound():
    everything = PROJECT["dependencies"] + [text for extra in EXTRAS.values() for text in extra]
    assert [text for text in everything if "<" in text.partition(";")[0] or "==" in text.partition(";")[0]] == []


def test_all_is_every_extra():
    named = set(re.search(r"\[(.*)\]", EXTRAS["all"][0])[1].split(","))
    assert named == EXTRAS.keys() - {"all"}


def imported(path) -> set[str]:
    """Top-level packages that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found


def test_the_library_imports_only_what_it_declares():
    optional = [text for name in EXTRAS.keys() - {"all", "dev", "docs"} for text in EXTRAS[name]]
    declared = PROJECT["dependencies"] + optional
    known = {MODULES.get(name, name) for name in bounds(declared)} | BROUGHT
    used = set().union(*(imported(path) for path in files(".py") if path.is_relative_to(ROOT / "forgetting")))
    assert used - known - set(sys.stdlib_module_names) - {"forgetting"} == set()


def test_core_dependencies_are_used():
    used = set().union(*(imported(path) for path in files(".py") if path.is_relative_to(ROOT / "forgetting")))
    assert set(bounds(PROJECT["dependencies"])) - used == set()


def test_one_version_everywhere():
    import forgetting

    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.search(r"^version: (.+)$", citation, re.MULTILINE)[1] == PROJECT["version"]
    assert f"## {PROJECT['version']}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert getattr(forgetting, "__version__", PROJECT["version"]) == PROJECT["version"]


def test_the_types_are_shipped():
    assert (ROOT / "forgetting" / "py.typed").exists()


@pytest.mark.parametrize(
    "target", ["demo", "test", "check", "docs", "bench", "reproduce", "test-oldest", "help"]
)
def test_make_has_the_target_and_its_help_line(target):
    assert re.search(rf"^{target}:.*## \w", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)


def test_the_examination_is_executable():
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111
