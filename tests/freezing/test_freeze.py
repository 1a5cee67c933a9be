"""Freezing: what is frozen does not move, by no way there is; all else is left as found."""

import pytest
import torch
from torch import nn

from forgetting.freezing import freeze
from tests.normed import images, moved, network, state, train


def learning(model):
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


@pytest.mark.parametrize("name", ["3", "3.*", ["3.weight", "3.bias"]])
def test_f12_freezing_a_module_freezes_its_parameters(name):
    model = network()
    before = state(model)
    freeze(model, name)
    train(model, torch.optim.SGD(model.parameters(), 0.1))
    assert learning(model) == ["0.weight", "0.bias", "1.weight", "1.bias", "4.weight", "4.bias", "7.weight", "7.bias"]
    assert moved(model, before) & {"3.weight", "3.bias"} == set()
    assert moved(model, before) >= {"0.weight", "7.weight", "4.running_mean"}


@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, torch.optim.SGD])
@pytest.mark.parametrize("set_to_none", [True, False])
def test_f13_no_optimizer_moves_a_frozen_weight(optimizer, set_to_none):
    model = network()
    settings = {"momentum": 0.9} if optimizer is torch.optim.SGD else {}
    optimizer = optimizer(model.parameters(), lr=0.1, weight_decay=0.5, **settings)
    train(model, optimizer, set_to_none=set_to_none)
    model(images()).sum().backward()
    before = state(model)
    freeze(model, keep="7")
    assert all(parameter.grad is None for name, parameter in model.named_parameters() if name not in learning(model))
    train(model, optimizer, set_to_none=set_to_none)
    assert moved(model, before) == {"7.weight", "7.bias"}


def test_without_the_gradient_taken_away_the_weight_would_move():
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.5)
    train(model, optimizer)
    before = state(model)
    model[0].requires_grad_(False)
    train(model, optimizer, set_to_none=False)
    assert "0.weight" in moved(model, before)


def test_statistics_of_the_frozen_part_are_held_and_those_of_the_other_move():
    model = network()
    before = state(model)
    with freeze(model, ["0", "1"]):
        train(model, torch.optim.SGD(model.parameters(), 0.1))
        assert {name for name in moved(model, before) if "running" in name} == {"4.running_mean", "4.running_var"}
        assert model[1].training
    model(images())
    assert "1.running_mean" in moved(model, before)


def test_moving_statistics_on_request():
    model = network()
    before = state(model)
    freeze(model, keep="7", norm_statistics="moving")
    train(model, torch.optim.SGD(model.parameters(), 0.1))
    assert moved(model, before) >= {"1.running_mean", "4.running_var", "7.weight"}
    assert "0.weight" not in moved(model, before)


@pytest.mark.parametrize("way", [{"parameters": "[01]"}, {"depth": 1}, {"depth": 1, "inputs": images()},
                                 {"keep": ["3", "4", "7"]}])
def test_a_norm_layer_without_parameters_in_the_frozen_part_is_held(way):
    model = network(affine=False)
    before = state(model)
    freeze(model, **way)
    train(model, torch.optim.SGD(model.parameters(), 0.1))
    assert moved(model, before) & {"1.running_mean", "1.running_var", "0.weight"} == set()
    assert "4.running_mean" in moved(model, before)


def test_depth_counts_in_the_order_of_execution():
    class Reversed(nn.Module):
        def __init__(self):
            super().__init__()
            self.head, self.middle, self.body = nn.Linear(3, 2), nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, x):
            return self.head(self.middle(self.body(x)))

    model = Reversed()
    with freeze(model, depth=2, inputs=torch.zeros(1, 3)):
        assert learning(model) == ["head.weight", "head.bias"]
    with freeze(model, depth=1):
        assert learning(model)[0] == "middle.weight"
    with pytest.raises(ValueError, match="depth=4 is more than the 3 groups"):
        freeze(model, depth=4)
    with pytest.raises(ValueError, match="nothing left to learn"):
        freeze(model, depth=3)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.body, self.head = nn.Embedding(5, 4), nn.Linear(4, 4), nn.Linear(4, 5, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens):
        return self.head(self.body(self.embedding(tokens)))


@pytest.mark.parametrize("name", ["embedding", "head.weight", "head"])
def test_a_tied_weight_is_frozen_by_each_of_its_names(name):
    model = Tied()
    freeze(model, name)
    assert learning(model) == ["body.weight", "body.bias"]


def test_a_shared_module_is_frozen_by_each_of_its_names():
    shared = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    model = nn.ModuleDict({"first": shared, "second": shared, "head": nn.Linear(4, 2)}).train()
    with freeze(model, "second"):
        assert learning(model) == ["head.weight", "head.bias"]
        before = state(model)
        model["first"](torch.randn(3, 4))
        assert moved(model, before) == set()
    with freeze(model, keep="second"):
        assert learning(model) == ["first.0.weight", "first.0.bias", "first.1.weight", "first.1.bias"]


def test_a_tied_weight_that_is_kept_learns():
    model = Tied()
    freeze(model, keep="head")
    assert learning(model) == ["embedding.weight"]


def test_a_function_of_the_name_selects():
    model = network()
    freeze(model, lambda name: name.startswith("0."))
    assert learning(model)[0] == "1.weight"
    with pytest.raises(ValueError, match="nothing would be frozen"):
        freeze(model, lambda name: False)


def test_remove_restores_requires_grad_exactly():
    model = network()
    model[0].bias.requires_grad_(False)
    before = learning(model)
    handle = freeze(model, keep="7")
    assert learning(model) == ["7.weight", "7.bias"]
    handle.remove()
    handle.remove()
    assert learning(model) == before
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize(("arguments", "message"), [
    ({}, "exactly one of parameters=, depth= and keep=, not none"),
    ({"parameters": "0", "depth": 1}, "not parameters and depth"),
    ({"parameters": "layer1"}, "'layer1' matches none"),
    ({"parameters": "2"}, "'2' matches none"),
    ({"keep": "haed.*"}, "'haed.\\*' matches none"),
    ({"keep": "*"}, "nothing would be frozen"),
    ({"parameters": "*"}, "nothing left to learn"),
    ({"depth": 0}, "depth=0 must be a whole number"),
    ({"depth": True}, "depth=True must be a whole number"),
    ({"parameters": "0", "inputs": 1}, "inputs= is for depth= only"),
    ({"parameters": "0", "norm_statistics": "frozen"}, '"still" or "moving"'),
])
def test_bad_arguments_raise_and_change_nothing(arguments, message):
    model = network()
    with pytest.raises(ValueError, match=message):
        freeze(model, **arguments)
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_a_wrong_kind_of_pattern_raises():
    with pytest.raises(TypeError, match="patterns or a function"):
        freeze(network(), [0])


def test_a_model_with_nothing_that_learns_raises():
    with pytest.raises(ValueError, match="no parameters"):
        freeze(nn.ReLU(), "*")
    with pytest.raises(ValueError, match="nothing left to learn"):
        freeze(network().requires_grad_(False), "0")
