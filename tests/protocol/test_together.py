"""Runs that are trained at once are those that are trained one by one."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from forgetting import methods
from forgetting.protocol import Processes, Recipe, Store, Together, run, sweep

SPLIT = Recipe("split-digits", variation={"order": "permuted"}, steps=20, batch=16, drop_last=True, network="mlp-16",
               optimizer="sgd", rate=0.1, every=10**6)


def grid(recipe=SPLIT, strengths=(1.0, 100.0)):
    made = [methods.get("ewc", strength=strength, examples=40) for strength in strengths]
    return [dataclasses.replace(recipe, method=method) for method in (methods.get("finetune"), *made)]


class Stop(Exception):
    """Ends a sweep after a task, so that the weights are still in the store."""


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_weights_after_twenty_steps_are_those_of_single_runs(optimizer):
    """The stacked loop against the ordinary one, on the second task, where the penalties pull."""
    from forgetting.protocol.executors.together import _one_task
    from forgetting.protocol.learning import Learning

    base = dataclasses.replace(SPLIT, optimizer=optimizer, rate=0.1 if optimizer == "sgd" else 1e-3,
                               keep_optimizer=True)
    recipes = [*grid(base), dataclasses.replace(base, method=methods.get("l2sp", strength=0.5)),
               dataclasses.replace(base, method=methods.get("ewc+l2sp", **{"ewc.strength": 5.0, "ewc.examples": 40}))]
    for seed in (0, 3):
        alone = [Learning(recipe, seed, lambda _: None) for recipe in recipes]
        stacked = [Learning(recipe, seed, lambda _: None) for recipe in recipes]
        for learning in (*alone, *stacked):
            learning.begin()
        for number in (1, 2):
            for learning in alone:
                learning.learn(number)
            assert _one_task(stacked, number) == ({}, dict.fromkeys(stacked, len(stacked)))
        for one, other in zip(alone, stacked, strict=True):
            for (name, left), right in zip(one.model.named_parameters(), other.model.parameters(), strict=True):
                assert (left - right).abs().max() < 1e-5, (one.recipe.method.name, name)
        assert (alone[0].model.head.weight - alone[2].model.head.weight).abs().max() > 1e-3


def test_a_sweep_agrees_with_single_runs_and_learns_the_first_task_once_a_seed(tmp_path):
    store = Store(tmp_path)
    results, diverged = sweep(grid(), range(3), store=store, executor=Together())
    assert not diverged
    assert [entry["seed"] for entry in store.journal() if entry["task"] == 1] == [0, 1, 2]
    assert len(store.journal()) == 3 + 9 * 4
    for result, (recipe, seed) in zip(results, [(recipe, seed) for recipe in grid() for seed in range(3)], strict=True):
        single = run(recipe, seed)
        assert result.key == single.key
        assert result.provenance["together"] == 9
        np.testing.assert_allclose(result.accuracy, single.accuracy, atol=0.03)
    assert sweep(grid(), range(3), store=store, executor=Processes(1)).results[4].figures() == results[4].figures()


def test_a_sweep_that_was_interrupted_goes_on(tmp_path):
    whole = sweep(grid(), range(2), store=tmp_path / "whole", executor=Together()).results

    def stop(event):
        if event["event"] == "task" and event["task"] == 3:
            raise Stop

    with pytest.raises(Stop):
        sweep(grid(), range(2), store=tmp_path / "cut", executor=Together(), observe=stop)
    again = sweep(grid(), range(2), store=tmp_path / "cut", executor=Together()).results
    for one, other in zip(whole, again, strict=True):
        np.testing.assert_allclose(one.accuracy, other.accuracy, atol=0.02)
    trained = [(entry["run"], entry["task"]) for entry in Store(tmp_path / "cut").journal()]
    assert len(trained) == len(set(trained)) == 2 + 6 * 4


def test_one_that_diverges_leaves_the_others(tmp_path):
    recipes = grid(strengths=(1e12, 1.0))
    results, diverged = sweep(recipes, [0], store=tmp_path, executor=Together())
    assert [each.recipe.method.settings["strength"] for each in diverged] == [1e12]
    assert len(results) == 2
    assert "lower the rate" in str(diverged[0].error)


@pytest.mark.parametrize("change", [
    {"method": methods.get("si")}, {"method": methods.get("lwf")}, {"method": methods.get("small-rate")},
    {"method": methods.get("joint")}, {"method": methods.get("ewc", mode="proximal")}, {"network": "cnn"},
    {"sequence": "digits-transfer", "variation": {}, "scenario": None, "pretraining_epochs": 1},
    {"network": lambda sequence: nn.Sequential(nn.Flatten(), frozen(nn.Linear(64, 8)), nn.ReLU(), nn.Linear(8, 10))},
    {"network": lambda sequence: nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 10))},
])
def test_what_cannot_go_together_runs_by_itself(tmp_path, change):
    recipe = dataclasses.replace(SPLIT, steps=2, **change)
    (result,), _ = sweep([recipe], [0], store=tmp_path, executor=Together())
    assert "together" not in result.provenance
    assert result.figures() == run(recipe, 0).figures()


def frozen(layer):
    """The same layer, which does not learn."""
    for weight in layer.parameters():
        weight.requires_grad_(False)
    return layer


def test_one_run_asked_for_twice_is_trained_once(tmp_path):
    store = Store(tmp_path)
    recipe = grid()[1]
    one, two = sweep([recipe, recipe], [0], store=store, executor=Together()).results
    assert one.figures() == two.figures()
    assert len(store.journal()) == 5


def test_columns_that_all_classes_share():
    recipe = dataclasses.replace(SPLIT, sequence="permuted-digits", variation={"tasks": 2}, scenario=None, steps=None,
                                 epochs=1, drop_last=False)
    from forgetting.protocol.executors.together import _one_task
    from forgetting.protocol.learning import Learning

    alone, *stacked = (Learning(recipe, 0, lambda _: None) for _ in range(3))
    for learning in (alone, *stacked):
        learning.begin()
    alone.learn(1)
    assert _one_task(stacked, 1) == ({}, dict.fromkeys(stacked, len(stacked)))
    torch.testing.assert_close(stacked[1].model.head.weight, alone.model.head.weight, rtol=0, atol=1e-5)


@pytest.mark.parametrize("most", [1, 0, 2.0, True])
def test_fewer_than_two_are_refused(most):
    with pytest.raises(ValueError, match="at least 2"):
        Together(most)
