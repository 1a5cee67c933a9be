"""Rates: every parameter once at its layer's rate; schedules step for step, saved, resumed and held at the end."""

import copy
import io
import math
import pickle

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations
from torch.optim.lr_scheduler import CosineAnnealingLR, SequentialLR

from forgetting.rates import layerwise_decay, slanted_triangular, warmup_cosine
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


def optimizer():
    return torch.optim.SGD([{"params": [torch.zeros(1, requires_grad=True)], "lr": 2.0},
                            {"params": [torch.zeros(1, requires_grad=True)], "lr": 0.5}])


def follow(scheduler, steps):
    seen = []
    for _ in range(steps):
        seen.append(scheduler.get_last_lr())
        scheduler.optimizer.step()
        scheduler.step()
    return torch.tensor(seen, dtype=torch.float64)


def equation_three(step, steps, cut_frac, ratio):
    """Howard and Ruder's equation 3, letter by letter."""
    cut = math.floor(steps * cut_frac)
    p = step / cut if step < cut else 1 - (step - cut) / (cut * (1 / cut_frac - 1))
    return (1 + p * (ratio - 1)) / ratio


@pytest.mark.parametrize(("steps", "cut", "ratio"), [(100, 0.1, 32), (50, 0.5, 8), (40, 0.25, 1), (100, 0.29, 32)])
def test_slanted_triangular_is_equation_three(steps, cut, ratio):
    expected = torch.tensor([equation_three(t, steps, cut + 1e-15, ratio) for t in range(steps)], dtype=torch.float64)
    seen = follow(slanted_triangular(optimizer(), steps, cut=cut, ratio=ratio), steps)
    torch.testing.assert_close(seen, expected[:, None] * torch.tensor([2.0, 0.5], dtype=torch.float64))


def test_the_printed_formula_goes_negative_and_ours_does_not():
    assert equation_three(14, 15, 0.1, 32) < 0
    seen = follow(slanted_triangular(optimizer(), 15), 15)
    assert seen.min() == 0.5 / 32


def test_warmup_cosine_step_by_step():
    seen = follow(warmup_cosine(optimizer(), 10, warmup=4, floor=0.1), 11)[:, 0] / 2
    expected = [0.2, 0.4, 0.6, 0.8, *(0.1 + 0.9 * (1 + math.cos(math.pi * t / 6)) / 2 for t in range(7))]
    torch.testing.assert_close(seen, torch.tensor(expected, dtype=torch.float64))
    assert follow(warmup_cosine(optimizer(), 3, warmup=0), 1)[0, 0] == 2


SCHEDULES = {"slanted": lambda optimizer: slanted_triangular(optimizer, 12, cut=0.25),
             "cosine": lambda optimizer: warmup_cosine(optimizer, 12, warmup=3, floor=0.2)}


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_beyond_the_end_the_last_value_holds(schedule):
    seen = follow(schedule(optimizer()), 20)
    assert seen[12:].unique(dim=0).shape[0] == 1
    assert (seen[12] < seen[11]).all()


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
@pytest.mark.parametrize("pause", [1, 3, 7, 14])
def test_a_resumed_run_has_the_same_rates(schedule, pause):
    whole = follow(schedule(optimizer()), 16)
    first = schedule(optimizer())
    follow(first, pause)
    file = io.BytesIO()
    torch.save({"optimizer": first.optimizer.state_dict(), "scheduler": first.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    second = schedule(optimizer())
    second.optimizer.load_state_dict(saved["optimizer"])
    second.load_state_dict(saved["scheduler"])
    assert torch.equal(follow(second, 16 - pause), whole[pause:])


def test_the_state_carries_the_settings():
    short = warmup_cosine(optimizer(), 5, warmup=1)
    long = warmup_cosine(optimizer(), 50, warmup=7, floor=0.3)
    short.load_state_dict(long.state_dict())
    assert torch.equal(follow(short, 60), follow(long, 60))


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda scheduler: pickle.loads(pickle.dumps(scheduler))])
def test_schedulers_are_copied_and_pickled(duplicate):
    scheduler = SCHEDULES["cosine"](optimizer())
    follow(scheduler, 2)
    assert torch.equal(follow(duplicate(scheduler), 5), follow(scheduler, 5))


def test_one_after_the_other():
    shared = optimizer()
    scheduler = SequentialLR(shared, [slanted_triangular(shared, 10), CosineAnnealingLR(shared, 5)], milestones=[10])
    seen = follow(scheduler, 12)
    torch.testing.assert_close(seen[:10], follow(slanted_triangular(optimizer(), 10), 10))


@pytest.mark.parametrize(("call", "message"), [
    (lambda o: slanted_triangular(o, 0), "steps=0 must be a whole number"),
    (lambda o: slanted_triangular(o, 2.5), "steps=2.5 must be a whole number"),
    (lambda o: slanted_triangular(o, 5), "5 steps with cut=0.1 leave no step"),
    (lambda o: slanted_triangular(o, 50, cut=1), r"cut=1 must lie in \(0, 1\)"),
    (lambda o: slanted_triangular(o, 50, ratio=0.5), "ratio=0.5 must be at least 1"),
    (lambda o: slanted_triangular(o, 50, ratio=math.nan), "ratio=nan must be at least 1"),
    (lambda o: warmup_cosine(o, 5, warmup=5), "warmup=5 must be a whole number of steps, from 0 to 4"),
    (lambda o: warmup_cosine(o, 5, warmup=-1), "warmup=-1"),
    (lambda o: warmup_cosine(o, 5, warmup=0.1), "warmup=0.1"),
    (lambda o: warmup_cosine(o, 5, warmup=1, floor=2), r"floor=2 must lie in \[0, 1\]"),
])
def test_bad_schedules_raise(call, message):
    with pytest.raises(ValueError, match=message):
        call(optimizer())
