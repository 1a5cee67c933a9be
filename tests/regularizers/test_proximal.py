"""The proximal step: stable at any strength, and under SGD with loss mode's fixed point."""

import math

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given

from forgetting.curvature import Diagonal
from forgetting.regularizers import EWC, L2SP
from tests.regularizers.small import Weights, move

FLAVOURS = {
    "plain": {},
    "dampening without momentum": {"dampening": 0.5},
    "momentum": {"momentum": 0.9},
    "dampening": {"momentum": 0.9, "dampening": 0.5},
    "nesterov": {"momentum": 0.9, "nesterov": True},
    "weight decay": {"momentum": 0.5, "weight_decay": 0.2},
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("strength", [1e12, 1e30, 1e300])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_no_strength_is_too_large(dtype, strength, momentum):
    model = Weights(a=torch.zeros(64, dtype=dtype), b=torch.zeros(3, 5, dtype=dtype))
    move(model, 0)
    anchor = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    importance = {"a": torch.linspace(0, 1e4, 64), "b": torch.full((3, 5), 1e-6)}
    ewc = EWC(strength)
    ewc.consolidate(model, curvature=Diagonal(importance))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=momentum)
    with ewc.attach(model, optimizer, mode="proximal"):
        for _ in range(50):
            for weight in model.parameters():
                weight.grad = torch.ones_like(weight)
            optimizer.step()
    for name, weight in model.named_parameters():
        assert torch.isfinite(weight).all()
        held = importance[name] > 0
        reach = 4 * torch.finfo(dtype).eps * (1 + anchor[name].abs().float()) + 1e-4
        assert ((weight - anchor[name]).abs().float() <= reach)[held].all()
        assert ((weight - anchor[name]).float() < -1)[~held].all()


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_the_fixed_point_on_a_quadratic_is_that_of_loss_mode(flavour):
    settings = FLAVOURS[flavour]
    bend, target = torch.tensor([1.0, 2.0, 0.5, 1.0]).double(), torch.tensor([1.0, -1.0, 3.0, 2.0]).double()
    importance, anchor = torch.tensor([0.5, 3.0, 0.0, 40.0]).double(), torch.tensor([0.0, 2.0, 1.0, -1.0]).double()
    model = Weights(a=anchor)
    ewc = EWC(strength=2.0)
    ewc.consolidate(model, curvature=Diagonal({"a": importance}))
    groups = [{"params": [model.a], "lr": 0.05, **settings}]
    optimizer = torch.optim.SGD(groups, lr=0.3)
    with ewc.attach(model, optimizer, mode="proximal"):
        for _ in range(1500):
            optimizer.zero_grad()
            (0.5 * bend * (model.a - target).square()).sum().backward()
            optimizer.step()
    decay = settings.get("weight_decay", 0.0)
    fixed = (bend * target + 2.0 * importance * anchor) / (bend + decay + 2.0 * importance)
    torch.testing.assert_close(model.a.detach(), fixed, rtol=1e-10, atol=1e-10)


def test_under_adam_the_step_is_decoupled():
    model = Weights(a=torch.tensor([2.0]))
    ewc = EWC(strength=4.0)
    ewc.consolidate(model, curvature=Diagonal({"a": torch.ones(1)}))
    model.a.data.fill_(3.0)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.25)
    with ewc.attach(model, optimizer, mode="proximal"):
        model.a.grad = torch.zeros(1)
        optimizer.step()
    assert model.a.item() == 2.0 + 1.0 / (1.0 + 0.25 * 4.0)


def test_each_group_has_its_own_rate_and_frozen_or_foreign_weights_stay():
    model = Weights(slow=[2.0], fast=[2.0], frozen=[2.0], foreign=[2.0])
    ewc = EWC(strength=1.0)
    ewc.consolidate(model, curvature=Diagonal({n: torch.ones(1) for n, _ in model.named_parameters()}))
    for weight in model.parameters():
        weight.data.fill_(3.0)
    model.frozen.requires_grad_(False)
    groups = [{"params": [model.slow, model.frozen], "lr": 0.25}, {"params": [model.fast], "lr": torch.tensor(1.0)}]
    optimizer = torch.optim.SGD(groups, lr=9.0)
    with ewc.attach(model, optimizer, mode="proximal"):
        optimizer.step()
        assert [w.item() for w in model.parameters()] == pytest.approx([2.8, 2.5, 3.0, 3.0])
        optimizer.param_groups[0]["lr"] = 0.0
        optimizer.step()
        assert [w.item() for w in model.parameters()] == pytest.approx([2.8, 2.25, 3.0, 3.0])


def test_a_closure_is_welcome():
    model = Weights(a=[2.0])
    ewc = EWC(strength=1.0)
    ewc.consolidate(model, curvature=Diagonal({"a": torch.ones(1)}))
    model.a.data.fill_(3.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    with ewc.attach(model, optimizer, mode="proximal"):
        optimizer.step(lambda: torch.zeros(()))
    assert model.a.item() == 2.5


def test_a_momentum_of_1_has_no_rest():
    model = Weights(a=[2.0])
    ewc = EWC(strength=1.0)
    ewc.consolidate(model, curvature=Diagonal({"a": torch.ones(1)}))
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, momentum=1.0)
    model.a.grad = torch.ones(1)
    with ewc.attach(model, optimizer, mode="proximal"), pytest.raises(ValueError, match="momentum below 1, not 1"):
        optimizer.step()


def test_l2sp_pulls_a_new_head_to_zero():
    model = Weights(a=[2.0])
    l2sp = L2SP(strength=1.0, head=3.0)
    l2sp.consolidate(model)
    model.register_parameter("head", torch.nn.Parameter(torch.tensor([8.0])))
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    with l2sp.attach(model, optimizer, mode="proximal"):
        optimizer.step()
    assert [w.item() for w in model.parameters()] == [2.0, 2.0]


@given(
    st.floats(0, 2.0**127, width=32), st.floats(0, 1e308), st.floats(0, 1e3),
    st.floats(-1e4, 1e4, width=32), st.floats(-1e4, 1e4, width=32),
)
def test_a_step_ends_between_where_it_was_and_the_anchor(importance, strength, rate, anchor, place):
    model = Weights(a=torch.tensor([anchor]))
    ewc = EWC(strength)
    ewc.consolidate(model, curvature=Diagonal({"a": torch.tensor([importance])}))
    model.a.data.fill_(place)
    with ewc.attach(model, optimizer := torch.optim.SGD(model.parameters(), lr=rate), mode="proximal"):
        optimizer.step()
    low, high = sorted((anchor, place))
    slack = 1e-6 * (abs(low) + abs(high)) + 1e-30
    assert math.isfinite(model.a.item())
    assert low - slack <= model.a.item() <= high + slack
