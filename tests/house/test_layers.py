"""Which room may import which: the contracts of pyproject.toml, and proof that they can fail."""

import shutil
import subprocess
import sys

import pytest

from tests.house.sources import ROOT

LINT = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"


def lint(folder):
    """Run import-linter over the package that lies in a folder."""
    command = [sys.executable, "-c", LINT]
    return subprocess.run(command, cwd=folder, check=False, capture_output=True, text=True, timeout=120)


def test_every_room_sees_only_the_rooms_below_it():
    result = lint(ROOT)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    ("room", "line"),
    [
        ("parameters.py", "import forgetting.fisher"),
        ("curvature/base.py", "from forgetting.regularizers import EWC"),
        ("freezing/__init__.py", "import forgetting.rates"),
        ("protocol/run.py", "from forgetting.regularizers.ewc import EWC"),
        ("fisher/labels.py", "import sklearn"),
        ("another.py", ""),
    ],
)
def test_the_contracts_can_fail(tmp_path, room, line):
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copytree(ROOT / "forgetting", tmp_path / "forgetting", ignore=shutil.ignore_patterns("__pycache__"))
    with (tmp_path / "forgetting" / room).open("a") as file:
        file.write(f"\n{line}\n")
    result = lint(tmp_path)
    assert result.returncode == 1, result.stdout + result.stderr
    assert "BROKEN" in result.stdout or "missing" in (result.stdout + result.stderr).lower()
