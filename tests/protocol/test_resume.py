"""A run that is killed at any moment ends, run again, as if nothing had happened."""

import collections
import json
import os
import shutil
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

from forgetting.protocol import Store, run
from tests.protocol import dying, tiny

ROOT = Path(__file__).parents[2]
MOMENTS = {  # moment -> how many tasks of the run (its source is pretrained) need no training any more
    "after the pretraining": 0,
    "while weights are written": 0,
    "between weights and figures": 0,
    "while a file is written": 0,
    "between figures and journal": 1,
    "inside task 3": 1,
    "before the result": 2,
}


@pytest.fixture(scope="module")
def whole():
    """The same run without a store."""
    return run(dying.recipe(), 5)


def ended(*pairs):
    """Let processes run, one a (directory, moment), and end; their exit codes."""
    command = [sys.executable, "-m", "tests.protocol.dying", *(str(word) for pair in pairs for word in pair)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """Moment -> the store that a run killed then left behind; "never": one that two processes worked on at once."""
    directories = {moment: tmp_path_factory.mktemp("store") for moment in [*MOMENTS, "never"]}
    pairs = [(directory, moment) for moment, directory in directories.items()]
    codes = ended(*pairs, (directories["never"], "never"))
    assert codes == [-signal.SIGKILL] * len(MOMENTS) + [0, 0]
    return directories


def copied(directory, tmp_path):
    """A copy of a store, for one test."""
    return shutil.copytree(directory, tmp_path / "copy")


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_and_run_again(stores, tmp_path, moment, whole):
    directory = copied(stores[moment], tmp_path)
    events = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # whatever a crash leaves behind is whole
        result = run(dying.recipe(), 5, store=directory, observe=events.append)
    assert result.figures() == whole.figures()
    trained = [event["task"] for event in events if event["event"] == "task"]
    assert trained == [2, 3][MOMENTS[moment]:]
    counted = collections.Counter((entry["run"], entry["task"]) for entry in Store(directory).journal())
    assert set(counted.values()) == {1}, counted
    assert sorted(task for _, task in counted) == [1, 2, 3]
    assert run(dying.recipe(), 5, store=directory).figures() == whole.figures()
    assert len(Store(directory).journal()) == 3


@pytest.mark.parametrize("tasks", [1, 2])
@pytest.mark.parametrize("pretrained", [True, False])
def test_an_error_keeps_what_was_finished(tmp_path, tasks, pretrained):
    recipe = tiny.recipe(tiny.ewc(0.5), pretrained=pretrained)

    class Stop(Exception):
        pass

    def observe(event):
        if event["event"] == "step" and event["task"] == tasks + 1 and "phase" not in event:
            raise Stop

    with pytest.raises(Stop):
        run(recipe, 5, store=tmp_path, observe=observe)
    assert len(Store(tmp_path).journal()) == tasks
    assert run(recipe, 5, store=tmp_path).figures() == run(recipe, 5).figures()
    assert len(Store(tmp_path).journal()) == 3


def test_seconds_of_the_parts_add_up(stores, tmp_path):
    directory = copied(stores["before the result"], tmp_path)
    journal = Store(directory).journal()
    result = run(dying.recipe(), 5, store=directory)
    tasks = [entry["seconds"] for entry in journal if entry["task"] > 1]
    assert result.seconds == pytest.approx(sum(tasks), abs=1e-5)
    assert result.provenance["seconds_pretraining"] == pytest.approx(journal[0]["seconds"], abs=1e-5)


def test_two_processes_on_one_store(stores, whole):
    assert [result.figures() for result in Store(stores["never"]).results()] == [whole.figures()]


def test_states_are_plain(stores):
    files = list(stores["inside task 3"].rglob("*.pt"))
    assert len(files) == 2  # the pretraining, and the state after task 2
    for file in files:
        torch.load(file, weights_only=True)
