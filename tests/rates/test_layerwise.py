"""Rates: every parameter once at its layer's rate, in any model, for any optimizer."""

import math

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from forgetting.rates import layerwise_decay, slanted_triangular
from tests import pretrained


class Reversed(nn.Module):
    """The head is registered first and runs last; one parameter never runs."""

    def __init__(self):
        super().__init__()
        self.head, self.middle, self.body = nn.Linear(3, 2), nn.Linear(3, 3), nn.Linear(3, 3)
        self.never = nn.Linear(1, 1)

    def forward(self, x):
        return self.head(self.middle(self.body(x)))


def rates(groups):
    return {name: group["lr"] for group in groups for name in group["names"]}


def test_the_rate_falls_from_the_last_layer_that_runs_to_the_first():
    groups = layerwise_decay(Reversed(), 0.8, 0.5, inputs=torch.zeros(1, 3), weight_decay=0.01)
    assert rates(groups) == {
        "body.weight": 0.2, "body.bias": 0.2, "middle.weight": 0.4, "middle.bias": 0.4,
        "head.weight": 0.8, "head.bias": 0.8, "never.weight": 0.8, "never.bias": 0.8}
    assert [group["name"] for group in groups] == ["body", "middle", "head", "never"]
    assert {group["weight_decay"] for group in groups} == {0.01}
    assert "weight_decay" not in layerwise_decay(Reversed(), 0.8, 0.5)[0]


def test_frozen_layers_are_left_out_and_still_count():
    model = Reversed()
    model.middle.requires_grad_(False)
    model.body.bias.requires_grad_(False)
    groups = layerwise_decay(model, 0.8, 0.5, inputs=torch.zeros(1, 3))
    assert rates(groups) == {"body.weight": 0.2, "head.weight": 0.8, "head.bias": 0.8, "never.weight": 0.8,
                             "never.bias": 0.8}


def test_decay_one_is_the_same_rate_everywhere():
    assert set(rates(layerwise_decay(Reversed(), 0.1, 1)).values()) == {0.1}


def test_a_block_is_one_layer_and_a_layer_in_a_transformer_is_a_block():
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), 3)
    model = nn.Sequential(nn.Linear(3, 4), encoder, nn.Linear(4, 2))
    groups = layerwise_decay(model, 1.0, 0.5, inputs=torch.zeros(2, 1, 3))
    assert [(group["name"], group["lr"]) for group in groups] == [
        ("0", 0.0625), ("1.layers.0", 0.125), ("1.layers.1", 0.25), ("1.layers.2", 0.5), ("2", 1.0)]


def test_parametrised_and_raw_parameters_have_a_name():
    model = nn.Sequential(parametrizations.weight_norm(nn.Linear(2, 2)))
    assert [group["name"] for group in layerwise_decay(model, 1.0, 0.5)] == ["0"]
    model.token = nn.Parameter(torch.zeros(2))
    assert layerwise_decay(model, 1.0, 0.5)[0]["name"] == "token"


@pytest.mark.parametrize("kind", ["resnet", "vit", "bert", "gpt"])
def test_every_trainable_parameter_is_in_exactly_one_group(kind):
    pytest.importorskip({"resnet": "torchvision", "vit": "timm"}.get(kind, "transformers"))
    model = getattr(pretrained, kind)()
    inputs = {"resnet": torch.zeros(2, 3, 32, 32), "vit": torch.zeros(2, 3, 16, 16),
              "bert": pretrained.bert_inputs(2, 5), "gpt": torch.zeros(2, 4, dtype=torch.long)}[kind]
    for given in (inputs, None):
        groups = layerwise_decay(model, 1e-3, 0.9, inputs=given)
        found = [id(parameter) for group in groups for parameter in group["params"]]
        assert sorted(found) == sorted(map(id, model.parameters()))
        assert [group["lr"] for group in groups] == sorted(group["lr"] for group in groups)
        assert len({group["name"] for group in groups}) == len(groups)


# One takes sparse gradients only, one no groups, one matrices only.
OPTIMIZERS = sorted({kind for kind in vars(torch.optim).values() if isinstance(kind, type)
                     and issubclass(kind, torch.optim.Optimizer) and kind.__name__ not in
                     ("Optimizer", "SparseAdam", "LBFGS", "Muon")}, key=lambda kind: kind.__name__)


@pytest.mark.parametrize("kind", OPTIMIZERS, ids=lambda kind: kind.__name__)
def test_every_optimizer_and_scheduler_takes_the_groups(kind):
    model = Reversed()
    optimizer = kind(layerwise_decay(model, 0.01, 0.5, inputs=torch.zeros(1, 3), weight_decay=0.0))
    scheduler = slanted_triangular(optimizer, 10)
    first = [group["lr"] for group in optimizer.param_groups]
    assert first == pytest.approx([0.0025 / 32, 0.005 / 32, 0.01 / 32, 0.01 / 32])
    model(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    scheduler.step()
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.0025, 0.005, 0.01, 0.01])
    twin = kind(layerwise_decay(model, 1.0, 0.5, inputs=torch.zeros(1, 3)))
    twin.load_state_dict(optimizer.state_dict())
    assert [group["lr"] for group in twin.param_groups] == [group["lr"] for group in optimizer.param_groups]
    assert [group["name"] for group in twin.param_groups] == ["body", "middle", "head", "never"]


@pytest.mark.parametrize(("arguments", "message"), [
    ((0.0, 0.5), "rate=0.0 must be a finite number above 0"), ((math.nan, 0.5), "rate=nan"),
    ((0.1, 0), r"decay=0 must lie in \(0, 1\]"), ((0.1, 1.1), r"decay=1.1 must lie in \(0, 1\]"),
    ((0.1, math.nan), "decay=nan"),
])
def test_numbers_out_of_range_raise(arguments, message):
    with pytest.raises(ValueError, match=message):
        layerwise_decay(Reversed(), *arguments)


def test_other_bad_input_raises():
    with pytest.raises(ValueError, match="weight_decay=-1"):
        layerwise_decay(Reversed(), 0.1, 0.5, weight_decay=-1)
    with pytest.raises(ValueError, match="no trainable parameters"):
        layerwise_decay(Reversed().requires_grad_(False), 0.1, 0.5)


def test_the_default_is_that_of_discriminative_fine_tuning():
    model = nn.Sequential(*(nn.Linear(2, 2) for _ in range(4)))
    rate, expected = 0.01, []
    for _ in range(4):  # section 3.2: the last layer's rate, then each lower layer's is the one above's divided by 2.6
        expected.insert(0, rate)
        rate = rate / 2.6
    assert [group["lr"] for group in layerwise_decay(model, 0.01)] == pytest.approx(expected, rel=1e-12)
