"""A diagnosis at the end of a run: it changes nothing, and is the same however often the run was interrupted."""

from __future__ import annotations

import shutil

import pytest
import torch

from forgetting.diagnosis import of_run
from forgetting.protocol import Processes, Result, Store, run, sweep
from tests.protocol import tiny


class Stop(Exception):
    """Where a run is interrupted."""


def interrupted(recipe, store, task):
    """Run with a diagnosis until a task begins."""
    def observe(event):
        if event["event"] == "step" and event["task"] == task and "phase" not in event:
            raise Stop

    with pytest.raises(Stop):
        run(recipe, 5, store=store, observe=observe, diagnose=of_run)


@pytest.mark.parametrize(("scenario", "pretrained"), [("task", True), ("class", False), ("domain", False)])
def test_nothing_else_changes(tmp_path, scenario, pretrained):
    recipe = tiny.recipe(tiny.ewc(0.5), scenario, pretrained=pretrained)
    plain, state = run(recipe, 5), torch.get_rng_state()
    result = run(recipe, 5, store=tmp_path, diagnose=of_run)
    assert torch.equal(torch.get_rng_state(), state)
    found = result.figures()
    diagnosis = found.pop("diagnosis")
    assert found == plain.figures()
    assert result.key == plain.key
    assert diagnosis["before"]["accuracy"] == pytest.approx(result.accuracy[1, 0])
    assert diagnosis["after"]["accuracy"] == pytest.approx(result.accuracy[-1, 0])
    assert diagnosis["examples"] == len(result.correct[0][0])
    assert Store(tmp_path).results()[0].figures() == result.figures()


@pytest.mark.parametrize("task", [2, 3])
@pytest.mark.parametrize("pretrained", [True, False])
def test_an_interrupted_run_comes_to_the_same(tmp_path, task, pretrained):
    recipe = tiny.recipe(tiny.ewc(0.5), pretrained=pretrained)
    interrupted(recipe, tmp_path, task)
    result = run(recipe, 5, store=tmp_path, diagnose=of_run)
    assert result.diagnosis is not None
    assert result.figures() == run(recipe, 5, diagnose=of_run).figures()


def test_without_the_weights_of_the_first_task_there_is_none(tmp_path):
    recipe = tiny.recipe()
    interrupted(recipe, tmp_path, 3)
    shutil.rmtree(tmp_path / "shared")
    with pytest.warns(UserWarning, match="behind its first task"):
        assert run(recipe, 5, store=tmp_path, diagnose=of_run).diagnosis is None


def test_a_finished_run_stays_as_it_is(tmp_path):
    recipe = tiny.recipe(pretrained=True)
    run(recipe, 5, store=tmp_path)
    assert run(recipe, 5, store=tmp_path, diagnose=of_run).diagnosis is None


def test_a_sweep_diagnoses_here(tmp_path):
    results, _ = sweep([tiny.recipe(pretrained=True)], range(2), store=tmp_path, diagnose=of_run)
    assert [result.diagnosis["verdict"][:10] for result in results] == ["The source"] * 2
    with pytest.raises(ValueError, match="Processes does not hand back"):
        sweep([tiny.recipe()], range(1), store=tmp_path, executor=Processes(1), diagnose=of_run)


def test_files_without_the_field_are_read_and_written_as_before():
    plain = run(tiny.recipe(pretrained=True), 5)
    data = plain.as_data()
    assert "diagnosis" not in data
    assert Result.from_data(data).diagnosis is None
    told = Result.from_data({**data, "diagnosis": {"verdict": "lost"}})
    assert Result.from_data(told.as_data()).diagnosis == {"verdict": "lost"}
    with pytest.raises(KeyError, match="mood"):
        Result.from_data({**data, "mood": 1})
    del data["drift"]
    with pytest.raises(KeyError, match="drift"):
        Result.from_data(data)
