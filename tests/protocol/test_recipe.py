"""Recipes, methods and results: what is checked, what names a run, what comes back from a file."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from forgetting.protocol import Method, Recipe, Result, run
from forgetting.protocol.recipe import derive, seeded
from forgetting.protocol.result import packed, unpacked
from tests.protocol import tiny


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"sequence": "digits-transfers"}, "'digits-transfers'; did you mean 'digits-transfer'"),
        ({"optimizer": "sdg"}, "no optimizer 'sdg'; did you mean 'sgd'"),
        ({"dtype": "float"}, "no dtype 'float'; did you mean 'float"),
        ({"norm_statistics": "stil"}, "did you mean 'still'"),
        ({"rate": 0.0}, "rate=0.0: at a rate of 0 nothing is learned"),
        ({"rate": float("nan")}, "rate=nan"),
        ({"epochs": 0}, "epochs=0: expected a whole number of at least 1"),
        ({"batch": 2.5}, "batch=2.5"),
        ({"every": True}, "every=True"),
        ({"rate": "fast"}, "rate='fast': expected a finite number"),
        ({"weight_decay": -1.0}, "weight_decay=-1.0: expected a finite number of at least 0"),
        ({"optimizer": "adam", "momentum": 0.9}, "momentum=0.9 has no effect with 'adam'"),
        ({"sequence": tiny.sequence("task"), "scenario": "class"}, "'class', but the given sequence is 'task'"),
    ],
)
def test_bad_recipes(fields, words):
    with pytest.raises(ValueError, match=words):
        Recipe(**{"sequence": "digits-transfer", **fields})


def test_a_recipe_takes_a_method():
    with pytest.raises(TypeError, match="method is a str, expected a Method"):
        Recipe("digits-transfer", "ewc")
    with pytest.raises(TypeError, match="run takes a Recipe, not a str"):
        run("digits-transfer")


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"mode": "proximl"}, ValueError, "mode='proximl' of method 'mine': choose one of loss, gradient, proximal"),
        ({"rate": 0.0}, ValueError, "rate factor 0.0; it must be above 0"),
        ({"settings": {"strength": torch.ones(1)}}, TypeError, "setting 'strength' of method 'mine' is a Tensor"),
        ({"settings": {"strength": float("inf")}}, ValueError, "'strength' of method 'mine' is inf; it must be finite"),
        ({"name": "my method"}, ValueError, "not 'my method'"),
    ],
)
def test_bad_methods(arguments, error, words):
    with pytest.raises(error, match=words):
        Method(**{"name": "mine", **arguments})


def test_a_named_scenario_and_the_default_one_are_one_recipe():
    default, named = Recipe("split-digits"), Recipe("split-digits", scenario="task")
    assert default.scenario == "task"
    assert default.key(0, "data") == named.key(0, "data") != Recipe("split-digits", scenario="class").key(0, "data")


def test_a_key_names_recipe_seed_and_data():
    recipe = tiny.recipe()
    assert recipe.key(0, "a") == tiny.recipe().key(0, "a")
    assert len({recipe.key(0, "a"), recipe.key(1, "a"), recipe.key(0, "b"), tiny.recipe(rate=0.2).key(0, "a")}) == 4
    shared = recipe.pretraining_key(0, "a")
    assert shared == tiny.recipe(tiny.ewc(), rate=0.2, epochs=9).pretraining_key(0, "a")
    for change in ({"pretraining_rate": 0.3}, {"pretraining_epochs": 4}, {"batch": 7}, {"dtype": "float64"},
                   {"optimizer": "adam", "momentum": 0.0}, {"network": tiny.plain_network}):
        assert shared != tiny.recipe(**change).pretraining_key(0, "a")


def test_every_field_of_a_recipe_is_in_its_data():
    data = tiny.recipe(tiny.ewc(3.0)).as_data()
    assert set(data) == {item.name for item in dataclasses.fields(Recipe)}
    assert data["method"] == {"name": "ewc", "settings": {"strength": 3.0}, "mode": "loss", "rate": 1.0, "joint": False}
    assert json.loads(json.dumps(data)) == data


def test_derived_seeds_differ_by_what_they_are_for():
    purposes = (("order", 1), ("order", 2), ("task", 1), ("network",))
    seeds = {derive(seed, *purpose) for seed in (0, 1) for purpose in purposes}
    assert len(seeds) == 8
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_seeded_gives_the_generator_back():
    state = torch.get_rng_state()
    with seeded(5, "cpu"):
        first = torch.rand(3)
    assert torch.equal(state, torch.get_rng_state())
    with seeded(5, "cpu"):
        assert torch.equal(first, torch.rand(3))


def test_models_of_one_seed_are_equal():
    recipe, other = tiny.recipe(), tiny.recipe(tiny.ewc(), rate=0.3)
    weights = [made.model_of(made.sequence, seed)[0].weight for made, seed in ((recipe, 0), (other, 0), (recipe, 1))]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_a_result_comes_back_from_json():
    result = run(tiny.recipe(tiny.ewc(), every=5))
    back = Result.from_data(json.loads(json.dumps(result.as_data())))
    assert back.as_data() == result.as_data()
    assert np.array_equal(back.accuracy, result.accuracy)
    assert back.accuracy.dtype == np.float64
    assert back.accuracy.shape == (4, 3)
    assert back.correct[2][1].dtype == bool
    assert back.correct[2][1].shape == (30,)
    assert back.tasks == result.tasks == ("task 1", "task 2", "task 3")
    assert back.method == "ewc"
    assert back.seconds == result.seconds_training + result.seconds_consolidation > 0
    with pytest.raises(KeyError, match="not a result: drift"):
        Result.from_data({name: value for name, value in result.as_data().items() if name != "drift"})


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 1000])
def test_flags_are_packed_without_loss(length):
    flags = np.random.default_rng(0).random(length) < 0.5
    assert np.array_equal(unpacked(json.loads(json.dumps(packed(flags)))), flags)


def test_provenance_says_what_was_used():
    result = run(tiny.recipe(), 3)
    about = result.provenance
    assert about["versions"]["torch"] == torch.__version__
    assert about["threads"] == torch.get_num_threads()
    assert about["seed"] == 3
    assert about["data"].startswith(tiny.sequence().fingerprint())
    assert {"python", "numpy", "scipy", "forgetting"} <= set(about["versions"])
    assert {"platform", "device", "finished"} <= set(about)
    assert result.peak_bytes >= 0


def test_events_tell_the_run():
    events = []
    result = run(tiny.recipe(tiny.ewc(), pretrained=True, every=5), observe=events.append)
    names = [event["event"] for event in events]
    assert names == ["start", *["step"] * 3, *["consolidation", "step", "step", "task"] * 2, "result"]
    assert events[0]["tasks"] == ["task 1", "task 2", "task 3"]
    assert events[1]["phase"] == "pretraining"
    step = next(event for event in events if event["event"] == "step" and event["task"] == 3)
    assert {"loss", "accuracy", "penalty", "ratio", "step", "steps", "method", "seed"} <= set(step)
    assert next(event for event in events if event["event"] == "task")["accuracy"] == result.accuracy[2].tolist()
    assert events[-1]["result"] is result


def test_the_callers_model_is_left_as_found():
    """``network`` may give one and the same pretrained model again: every run trains a copy."""
    recipe = tiny.recipe()
    given = recipe.model_of(recipe.sequence, 0)
    before = {name: tensor.clone() for name, tensor in given.state_dict().items()}
    own = dataclasses.replace(recipe, network=lambda _: given)
    first, second = run(own, 0), run(own, 0)
    assert first.figures() == second.figures()
    assert all(torch.equal(before[name], tensor) for name, tensor in given.state_dict().items())


def test_a_regularizer_without_settings_still_names_its_run():
    from forgetting.regularizers import EWC

    keys = {dataclasses.replace(tiny.recipe(), method=Method("own", regularizer=lambda s=s: EWC(s))).key(0, "data")
            for s in (1.0, 2.0)}
    assert len(keys) == 2


@pytest.mark.parametrize("seed", ["a", 1.5, -1, True])
def test_a_seed_is_a_whole_number(seed):
    with pytest.raises(ValueError, match="whole number"):
        run(tiny.recipe(), seed)


def test_a_network_that_gives_no_model():
    own = dataclasses.replace(tiny.recipe(), network=lambda _: None)
    with pytest.raises(TypeError, match="gave a NoneType"):
        own.model_of(own.sequence, 0)
