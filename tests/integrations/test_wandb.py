"""What reaches wandb: with a stand-in for the package, and once with the package itself, offline."""

import builtins
import sys
import time
import types

import pytest

from forgetting.integrations.wandb import observing
from forgetting.protocol import Method, Recipe
from tests.report.made import made, transfer

RECIPE = Recipe("digits-transfer", Method("ewc", settings={"strength": 3.0}), rate=0.1)
WHERE = {"task": 2, "name": "rotated", "tasks": 2, "method": "ewc", "seed": 5}
START = {"event": "start", "method": "ewc", "sequence": "digits-transfer", "seed": 5, "key": "abc123",
         "recipe": RECIPE.as_data(), "tasks": ["digits", "rotated"], "finished": False}
EVENTS = [
    {"event": "step", **WHERE, "task": 1, "name": "digits", "phase": "pretraining", "step": 10, "loss": 0.9,
     "accuracy": {"digits": 0.5}},
    {"event": "consolidation", **WHERE, "seconds": 0.25},
    {"event": "step", **WHERE, "steps": 40, "step": 20, "loss": 0.5, "accuracy": {"digits": 0.7, "rotated": 0.6},
     "penalty": 0.1, "pull": 0.2, "gradient": 0.4, "ratio": 0.5},
    {"event": "task", **WHERE, "accuracy": [0.7, 0.8], "seconds": 1.5},
]
RESULT = {"event": "result", "method": "ewc", "sequence": "digits-transfer", "seed": 5, "key": "abc123",
          "result": made("ewc", 5, transfer(0.8, 0.6, 0.9), restored=0.7)}


class Recorder:
    """Stands in for wandb's run."""

    def __init__(self):
        self.rows, self.summary, self.ends = [], {}, []
        self.log = self.rows.append

    def finish(self, exit_code):
        self.ends.append(exit_code)


@pytest.fixture
def recorded(monkeypatch):
    """A stand-in for the package: what ``init`` received, and the run it gave."""
    run, calls = Recorder(), []
    package = types.ModuleType("wandb")
    package.init = lambda **options: calls.append(options) or run
    monkeypatch.setitem(sys.modules, "wandb", package)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    return run, calls


def test_configuration_steps_tasks_and_summary(recorded):
    run, calls = recorded
    with observing(RECIPE, 5, project="mine") as observe:
        for event in (START, *EVENTS, RESULT):
            observe(event)
    (options,) = calls
    assert (options["project"], options["id"], options["resume"]) == ("mine", "abc123", "allow")
    assert options["config"]["method"]["settings"] == {"strength": 3.0}
    assert options["config"]["seed"] == 5
    assert run.rows == [
        {"pretraining/task": 1, "pretraining/step": 10, "pretraining/loss": 0.9, "pretraining/accuracy/digits": 0.5},
        {"task": 2, "consolidation_seconds": 0.25},
        {"task": 2, "step": 20, "loss": 0.5, "penalty": 0.1, "pull": 0.2, "gradient": 0.4, "ratio": 0.5,
         "accuracy/digits": 0.7, "accuracy/rotated": 0.6},
        {"task": 2, "seconds": 1.5, "learned/1": 0.7, "learned/2": 0.8},
    ]
    assert run.summary["retention"] == pytest.approx(0.75)
    assert run.summary["forgetting"] == pytest.approx(0.2)
    assert run.summary["accuracy_matrix"] == transfer(0.8, 0.6, 0.9)
    assert run.summary["source_after_with_old_statistics"] == 0.7
    assert run.ends == [0]


def failing(observe):
    observe(START)
    observe({"event": "step"})


def test_a_run_that_fails_is_ended_as_failed_and_the_error_passes(recorded):
    run, _ = recorded
    with pytest.raises(KeyError, match="accuracy"), observing(RECIPE, 5) as observe:
        failing(observe)
    assert run.ends == [1]


def test_nothing_is_opened_where_nothing_starts(recorded):
    run, calls = recorded
    with observing(RECIPE, 5):
        pass
    assert calls == []
    assert run.ends == []


def test_without_wandb_the_error_names_the_extra(monkeypatch):
    found = builtins.__import__

    def without(name, *arguments):
        if name == "wandb":
            raise ModuleNotFoundError("No module named 'wandb'", name="wandb")
        return found(name, *arguments)

    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ModuleNotFoundError, match=r"forgetting\[wandb\]"), observing(RECIPE, 5):
        pass


def test_offline_needs_no_account_and_leaves_a_file(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="the extra 'wandb' is not installed")
    for name in ("HOME", "WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("WANDB_SILENT", "true")
    with observing(RECIPE, 5, mode="offline", directory=tmp_path) as observe:
        for event in (START, *EVENTS, RESULT):
            observe(event)
    (file,) = tmp_path.glob("wandb/offline-run-*-abc123/run-abc123.wandb")
    expected = (b"digits-transfer", b"strength", b"accuracy/rotated", b"learned/2", b"average_accuracy")
    for _ in range(300):  # wandb's own process writes the file, on a busy machine after finish() returned
        missing = [words for words in expected if words not in file.read_bytes()]
        if not missing:
            break
        time.sleep(0.1)
    assert not missing
