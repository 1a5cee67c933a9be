"""The registry of methods, and methods of one's own from a file or a module."""

import dataclasses
import json
import sys
import textwrap

import pytest
import torch
from torch import nn

from forgetting import methods
from forgetting.methods import registry
from forgetting.protocol import Method, Recipe, run
from forgetting.regularizers import EWC, L2SP, Regularizer
from tests.protocol import tiny

NAMES = methods.names()
OWN = """
    import torch
    from forgetting import Regularizer


    class Halfway(Regularizer):
        def __init__(self, strength, power=2.0):
            super().__init__(strength)
            self.power = power
            self.anchor = None

        def consolidate(self, model, data=None, *, outputs=None, curvature=None):
            self.anchor = {name: value.detach().clone() for name, value in model.named_parameters()}

        def penalty(self, model, inputs=None, outputs=None):
            if self.anchor is None:
                return self.zero(model)
            total = self.zero(model)
            for name, value in model.named_parameters():
                total = total + (value - self.anchor[name]).abs().pow(self.power).sum()
            return self.strength * total


    def by_function(strength=2.0):
        from forgetting.protocol import Method
        return Method("functional", {"strength": strength}, regularizer=lambda: Halfway(strength))


    def nothing():
        return 3


    class Unrelated:
        pass


    class Abstract(Regularizer):
        pass
"""


@pytest.fixture
def own(tmp_path):
    path = tmp_path / "own.py"
    path.write_text(textwrap.dedent(OWN))
    return path


def test_the_names_are_those_that_others_rely_on():
    assert {"finetune", "small-rate", "ewc", "l2sp", "freeze", "linear-probe", "layerwise-decay", "wise-ft",
            "joint"} <= set(NAMES)
    assert all(methods.get(name).name == name for name in NAMES)
    assert all(methods.describe(name).endswith(".") for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("pretrained", [True, False])
def test_every_method_runs(name, pretrained):
    if name.startswith("lora"):
        pytest.importorskip("peft", reason="adapters need peft")
    result = run(tiny.recipe(methods.get(name), pretrained=pretrained))
    assert result.method == name
    assert result.accuracy.shape == (4, 3)


def test_settings_reach_what_they_set():
    ewc = methods.get("ewc", strength=7.0, labels="empirical", anchors="separate", decay=0.5, mode="proximal")
    made = ewc.regularizer()
    assert isinstance(made, EWC)
    assert (made.strength, made.labels, made.anchors, made.decay) == (7.0, "empirical", "separate", 0.5)
    assert ewc.mode == "proximal"
    assert made is not ewc.regularizer()
    l2sp = methods.get("l2sp", strength=0.3, mode="gradient")
    assert isinstance(l2sp.regularizer(), L2SP)
    assert (l2sp.regularizer().strength, l2sp.mode) == (0.3, "gradient")
    assert methods.get("small-rate", rate=0.3).rate == 0.3
    assert methods.get("joint").joint
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))
    groups = methods.get("layerwise-decay", decay=0.1).groups(model, 1.0, tiny.situation(torch.zeros(1, 2)))
    assert sorted(group["lr"] for group in groups) == pytest.approx([0.1, 1.0])
    with methods.get("freeze", depth=1).prepare(model, tiny.situation(torch.zeros(1, 2))):
        assert [parameter.requires_grad for parameter in model.parameters()] == [False, False, True, True]
    assert all(parameter.requires_grad for parameter in model.parameters())
    before = {name: torch.zeros_like(value) for name, value in model.state_dict().items()}
    after = {name: value.clone() for name, value in model.state_dict().items()}
    methods.get("wise-ft", amount=0.25).average(
        model, dataclasses.replace(tiny.situation(torch.zeros(1, 2)), start=before))
    assert all(torch.allclose(value, 0.25 * after[name]) for name, value in model.state_dict().items())


def test_settings_are_among_what_names_a_run():
    keys = {Recipe("digits-transfer", methods.get("ewc", **settings)).key(0, "data")
            for settings in ({}, {"strength": 2.0}, {"labels": "sampled"}, {"anchors": "separate"}, {"decay": 0.9},
                             {"mode": "loss"})}
    assert len(keys) == 6


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: methods.get("ewcc"), "no method 'ewcc'; did you mean 'ewc'.*file.py:Class"),
        (lambda: methods.describe("join"), "did you mean 'joint'"),
        (lambda: methods.get("ewc", strenght=1.0), "no setting of 'ewc' 'strenght'; did you mean 'strength'"),
        (lambda: methods.get("finetune", rate=0.1), "'finetune' has no settings, so 'rate' cannot be set"),
        (lambda: methods.get("ewc", mode="proximl"), "mode='proximl'"),
        (lambda: methods.get("ewc", strength=-1.0), "strength"),
    ],
)
def test_bad_input(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_what_was_chosen_for_a_sequence_replaces_the_defaults(tmp_path, monkeypatch):
    table = {"digits-transfer": {"provenance": {"seeds": [100]}, "recipe": {"rate": 0.2},
                                 "methods": {"ewc": {"strength": 55.0}}}}
    (tmp_path / "chosen.json").write_text(json.dumps(table))
    monkeypatch.setattr(registry.resources, "files", lambda package: tmp_path)
    assert methods.get("ewc", sequence="digits-transfer").settings["strength"] == 55.0
    assert methods.get("ewc", sequence="digits-transfer", strength=1.0).settings["strength"] == 1.0
    assert methods.get("ewc", sequence="split-digits").settings == methods.get("ewc").settings
    assert methods.get("l2sp", sequence="digits-transfer").settings == methods.get("l2sp").settings
    assert methods.suggested_recipe("digits-transfer") == {"rate": 0.2}
    assert methods.suggested("digits-transfer")["provenance"] == {"seeds": [100]}
    assert methods.suggested_recipe("split-digits") == {}


def test_a_regularizer_from_a_file_runs_in_the_same_table(own):
    method = methods.load(f"{own}:Halfway", strength=0.5)
    assert (method.name, method.settings["strength"]) == ("Halfway", 0.5)
    assert methods.load(f"{own}:Halfway").settings["strength"] == 1.0
    result = run(tiny.recipe(method))
    assert result.method == "Halfway"
    assert run(tiny.recipe(methods.load(f"{own}:Halfway", strength=0.0))).figures()["correct"] == \
        run(tiny.recipe()).figures()["correct"]


def test_a_file_is_read_anew_and_an_edited_one_is_another_run(own):
    first = methods.load(f"{own}:Halfway")
    own.write_text(own.read_text().replace("power=2.0", "power=4.0"))  # same size, same second
    second = methods.load(f"{own}:Halfway")
    assert (first.regularizer().power, second.regularizer().power) == (2.0, 4.0)
    assert first.settings["source"] != second.settings["source"]
    assert tiny.recipe(first).key(0, "data") != tiny.recipe(second).key(0, "data")
    assert methods.load(f"{own}:Halfway").as_data() == second.as_data()


def test_loading_leaves_the_interpreters_path_and_the_folder_alone(own):
    path, beside = list(sys.path), sorted(own.parent.iterdir())
    methods.load(f"{own}:Halfway")
    assert sys.path == path
    assert sorted(own.parent.iterdir()) == beside


def test_a_function_or_a_method_serves_too(own):
    assert methods.load(f"{own}:by_function", strength=3.0).settings["strength"] == 3.0
    own.write_text(own.read_text() + "\nready = by_function(5.0)\n")
    ready = methods.load(f"{own}:ready")
    assert isinstance(ready, Method)
    assert ready.settings["strength"] == 5.0
    with pytest.raises(TypeError, match="a finished Method, so strength cannot be set"):
        methods.load(f"{own}:ready", strength=1.0)


def test_a_dotted_path_serves_too():
    method = methods.load("forgetting.regularizers:L2SP", strength=2.0, mode="proximal")
    assert (method.name, method.mode, method.settings["strength"]) == ("L2SP", "proximal", 2.0)
    assert isinstance(method.regularizer(), Regularizer)


def test_dataclasses_in_a_file_find_their_module(own):
    own.write_text(own.read_text() + textwrap.dedent("""
        import dataclasses
        import typing

        @dataclasses.dataclass
        class Plan:
            steps: "typing.ClassVar[int]" = 1
    """))
    methods.load(f"{own}:Halfway")


def test_an_error_in_a_file_is_its_own_and_leaves_no_module(own):
    before = set(sys.modules)
    own.write_text("raise RuntimeError('mine')")
    with pytest.raises(RuntimeError, match="mine"):
        methods.load(f"{own}:Halfway")
    assert set(sys.modules) == before


@pytest.mark.parametrize(
    ("reference", "settings", "error", "words"),
    [
        ("{own}", {}, ValueError, "expected file.py:Class or package.module:Class"),
        ("{own}:Half way", {}, ValueError, "names no method"),
        ("{own}.py:Halfway", {}, FileNotFoundError, "there is no file .*own.py.py .*looked in"),
        ("no.such.module:Halfway", {}, ModuleNotFoundError, "no module 'no' to import: install it.*PYTHONPATH"),
        ("{own}:Halfwy", {}, ValueError, "did you mean 'Halfway'"),
        ("{own}:Unrelated", {}, TypeError, "neither a Regularizer's class nor a Method"),
        ("{own}:nothing", {}, TypeError, "returned a int, expected a Method"),
        ("{own}:Abstract", {}, TypeError, "is abstract: it lacks consolidate, penalty"),
        ("{own}:Halfway", {"strenght": 1.0}, TypeError, r"Halfway\(strength, power=2.0\) cannot be called with"),
        ("{own}:Halfway", {"mode": "fast"}, ValueError, "mode='fast'"),
    ],
)
def test_bad_references(own, reference, settings, error, words):
    with pytest.raises(error, match=words):
        methods.load(reference.format(own=own), **settings)
