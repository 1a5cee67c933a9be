"""Every baseline's rows can be run, stand in ``targets.toml`` and are what the table says."""

import dataclasses
import importlib

import pytest

from baselines.targets import published
from baselines.verdicts import FOLDER
from forgetting.protocol import run
from forgetting.tasks import data
from tests.tasks.images import small_cifar, write_mnist

TABLES = published()


def baseline(name):
    return importlib.import_module(f"baselines.{name.replace('-', '_')}.recipe").BASELINE


@pytest.mark.parametrize("name", TABLES)
def test_every_target_is_a_row_and_every_claim_is_about_rows(name):
    found, table = baseline(name), TABLES[name]
    rows = [row.name for row in found.rows]
    assert found.name == name
    assert len(set(rows)) == len(rows)
    assert {target.row for target in table.targets} <= set(rows)
    assert {row for claim in table.claims for row in claim.rows} <= set(rows)
    for file in ("README.md", "recipe.py"):
        assert (FOLDER / name.replace("-", "_") / file).is_file()


@pytest.mark.slow
@pytest.mark.parametrize("name", TABLES)
def test_every_row_runs(name, tmp_path, monkeypatch):
    """On images of noise: that the settings fit each other, not what comes of them."""
    write_mnist(tmp_path)
    monkeypatch.setenv("FORGETTING_DATA", str(tmp_path))
    monkeypatch.setattr(data, "read_cifar", small_cifar)
    found = baseline(name)
    for row in found.rows:
        strength = row.strengths[0] if row.strengths else None
        row = dataclasses.replace(row, changes={**row.changes, "steps": 2, "batch": 8, "device": "cpu"})
        assert run(found.recipe(row, strength)).accuracy.shape[1] in (5, 10, 20)
