"""Style and types, as `make check` has them, and the documentation without a warning, as `make docs` has it."""

import importlib.util
import subprocess
import sys

import pytest

from tests.house.sources import ROOT


def tool(*command):
    """Run a tool of this environment at the root."""
    result = subprocess.run(
        [sys.executable, "-m", *map(str, command)], cwd=ROOT, check=False, capture_output=True, text=True, timeout=280
    )
    return result.returncode, result.stdout + result.stderr


def test_style():
    status, said = tool("ruff", "check", "--no-cache", ".")
    assert status == 0, said


@pytest.mark.slow
def test_types(tmp_path):
    status, said = tool("mypy", "--cache-dir", tmp_path)
    assert status == 0, said


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("sphinx") is None, reason="the extra `docs` is not installed")
def test_documentation_builds_without_a_warning(tmp_path):
    status, said = tool("sphinx", "-q", "-W", "--keep-going", "-b", "html", "docs", tmp_path)
    assert status == 0, said
    assert (tmp_path / "index.html").exists()
