"""A pull under which SGD's steps grow is announced, at the very threshold; so is one that is never felt."""

import warnings

import pytest
import torch
from torch import nn
from torch.optim import SGD

from forgetting.curvature import Block, Diagonal, Factors, Kronecker
from forgetting.regularizers import EWC, L2SP
from tests.regularizers.small import Weights

STEPS = 500

# What the paper of each flavour gives as the highest stable rate × curvature.
FLAVOURS = {
    "plain": ({}, 2.0),
    "dampening without momentum": ({"dampening": 0.5}, 2.0),
    "little momentum": ({"momentum": 0.3}, 2.6),
    "momentum": ({"momentum": 0.9}, 3.8),
    "dampening": ({"momentum": 0.9, "dampening": 0.5}, 7.6),
    "little nesterov": ({"momentum": 0.3, "nesterov": True}, 2.6 / 1.6),
    "nesterov": ({"momentum": 0.9, "nesterov": True}, 3.8 / 2.8),
}
flavours = pytest.mark.parametrize("flavour", FLAVOURS)


def held(importance=1.0, strength=1.0, **others):
    """One weight at its anchor 0, and EWC around it."""
    model = Weights(a=torch.zeros(1, dtype=torch.float64), **others)
    ewc = EWC(strength)
    ewc.consolidate(model, curvature=Diagonal({"a": torch.tensor([importance], dtype=torch.float64)}))
    return model, ewc


def warned(action):
    """The texts of the warnings that an action gave."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        action()
    return [str(found.message) for found in caught]


def steps(model, optimizer, count=1, ewc=None, mode="gradient"):
    """Steps whose only force is the pull."""
    for _ in range(count):
        optimizer.zero_grad()
        if mode == "loss":
            ewc.penalty(model).backward()
        optimizer.step()


@flavours
@pytest.mark.parametrize("mode", ["loss", "gradient"])
@pytest.mark.parametrize("decay", [0.0, 0.5])
@pytest.mark.parametrize("side", [0.97, 1.03])
def test_just_below_it_converges_and_just_above_it_diverges_and_is_announced(flavour, mode, decay, side):
    settings, highest = FLAVOURS[flavour]
    rate, importance = 0.1, 4.0
    strength = (side * highest / rate - decay) / importance
    model, ewc = held(importance, strength)
    optimizer = SGD(model.parameters(), lr=rate, weight_decay=decay, **settings)

    def run():
        with ewc.attach(model, optimizer, mode=mode):
            model.a.data.fill_(1.0)
            steps(model, optimizer, STEPS, ewc, mode)

    said = warned(run)
    if side < 1:
        assert abs(model.a.item()) < 1e-2
        assert said == []
    else:
        assert not abs(model.a.item()) < 1e2
        assert len(said) == 1
        assert f"EWC in mode={mode!r} will diverge under SGD: rate 0.1 × " in said[0]
        assert f"is above {highest:.3g}" in said[0]
        assert "Attach it with mode='proximal', which is stable at any strength" in said[0]


@flavours
def test_what_the_message_advises_helps(flavour):
    settings, _ = FLAVOURS[flavour]
    model, ewc = held(4.0, 1e3)
    optimizer = SGD(model.parameters(), lr=0.1, weight_decay=0.5, **settings)
    with pytest.warns(UserWarning, match="lower the strength below") as caught:
        ewc.attach(model, optimizer, mode="gradient").remove()
    advised = float(str(caught[0].message).partition("strength below ")[2].split()[0])
    ewc.strength = 0.99 * advised
    assert warned(lambda: ewc.attach(model, optimizer, mode="gradient").remove()) == []
    ewc.strength = 1.01 * advised
    assert len(warned(lambda: ewc.attach(model, optimizer, mode="gradient").remove())) == 1
    assert warned(lambda: ewc.attach(model, optimizer, mode="proximal").remove()) == []


@pytest.mark.parametrize("mode", ["loss", "gradient"])
def test_one_warning_a_cause_at_the_first_moment_that_shows_it(mode):
    model, fresh = held()[0], EWC(1.0)
    optimizer = SGD(model.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    with fresh.attach(model, optimizer, mode=mode):
        assert warned(lambda: steps(model, optimizer, 3)) == []
        fresh.consolidate(model, curvature=Diagonal({"a": torch.tensor([30.0])}))
        assert len(warned(lambda: steps(model, optimizer, 3))) == 1  # the consolidation
        fresh.strength = 2.0
        assert len(warned(lambda: steps(model, optimizer, 3))) == 1  # the strength
        fresh.strength = 0.1
        assert warned(lambda: steps(model, optimizer, 3)) == []
        schedule.lr_lambdas = [lambda step: 10.0 + step]
        said = warned(lambda: [(schedule.step(), steps(model, optimizer)) for _ in range(3)])
        assert len(said) == 1  # the rate, which changes again at every step
        assert "rate 1.1 × strength 0.1 × 30 = 3.3 is above 2" in said[0]
    assert warned(lambda: steps(model, optimizer, 3)) == []
    assert not optimizer._optimizer_step_post_hooks


def test_at_once_where_it_is_attached_after_consolidation():
    model, ewc = held(30.0)
    optimizer = SGD(model.parameters(), lr=0.1)
    for mode in ("loss", "gradient"):
        with pytest.warns(UserWarning, match="rate 0.1 × strength 1 × 30 = 3 is above 2"):
            handle = ewc.attach(model, optimizer, mode=mode)
        assert warned(lambda: steps(model, optimizer, 3)) == []
        handle.remove()


def test_a_warning_that_is_an_error_leaves_nothing_attached():
    model, ewc = held(30.0)
    optimizer = SGD(model.parameters(), lr=0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="will diverge"):
            ewc.attach(model, optimizer, mode="gradient")
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW, torch.optim.RMSprop, torch.optim.Adagrad])
def test_nothing_is_claimed_of_others(kind):
    model, ewc = held(1e9, 1e9)
    optimizer = kind(model.parameters(), lr=0.1)

    def run():
        with ewc.attach(model, optimizer, mode="gradient"):
            steps(model, optimizer, 3)
        with ewc.attach(model, optimizer, mode="loss"):
            assert not optimizer._optimizer_step_post_hooks

    assert warned(run) == []


def test_only_what_moves_counts_at_its_own_rate():
    model = Weights(a=torch.zeros(1), b=torch.zeros(1), frozen=torch.zeros(1), foreign=torch.zeros(1))
    ewc = EWC(1.0)
    ewc.consolidate(model, curvature=Diagonal(
        {"a": torch.ones(1), "b": 50 * torch.ones(1), "frozen": 1e6 * torch.ones(1), "foreign": 1e6 * torch.ones(1)}))
    model.frozen.requires_grad_(False)

    def attach(first, second):
        groups = [{"params": [model.a, model.frozen], "lr": first}, {"params": [model.b], "lr": second}]
        return warned(lambda: ewc.attach(model, SGD(groups, lr=9.0), mode="gradient").remove())

    assert attach(1.9, 0.03) == []
    assert "rate 2.1 × strength 1 × 1 = 2.1 is above 2" in attach(2.1, 0.03)[0]
    said = attach(1.9, 0.05)
    assert len(said) == 1
    assert "rate 0.05 × strength 1 × 50 = 2.5 is above 2" in said[0]
    assert "in 'b'" in said[0]


def layer_and_factors():
    """A linear map, and a matrix over weight and bias with the largest eigenvalue 3 · 2."""
    a = torch.tensor([[2.0, 1.0], [1.0, 2.0]])[None]
    block = Block("weight", torch.Size([1, 1]), Factors(a, torch.full((1, 1, 1), 2.0)), bias="bias")
    return nn.Linear(1, 1), Kronecker([block])


def test_a_block_counts_by_its_eigenvalue_and_by_the_least_of_its_rates():
    model, matrix = layer_and_factors()
    ewc = EWC(1.0)
    ewc.consolidate(model, curvature=matrix)

    def attach(weight, bias):
        groups = [{"params": [model.weight], "lr": weight}, {"params": [model.bias], "lr": bias}]
        return warned(lambda: ewc.attach(model, SGD(groups, lr=9.0), mode="gradient").remove())

    assert attach(0.33, 0.33) == []
    assert "rate 0.34 × strength 1 × 6 = 2.04" in attach(0.34, 0.5)[0]
    assert attach(0.33, 0.5) == []
    model.bias.requires_grad_(False)
    assert attach(0.49, 0.5) == []  # the weight alone has the eigenvalue 4
    assert "rate 0.51 × strength 1 × 4 = 2.04" in attach(0.51, 0.5)[0]


def test_l2sp_and_its_head():
    model = Weights(a=torch.zeros(2), b=torch.zeros(2))
    l2sp = L2SP(1.0, head=30.0, parameters="a")
    l2sp.consolidate(model)
    assert warned(lambda: l2sp.attach(model, SGD([model.a], lr=0.1), mode="loss").remove()) == []
    with pytest.warns(UserWarning, match=r"L2SP in mode='loss' will diverge.* × 30 = 3 is above 2.*in 'b'"):
        l2sp.attach(model, SGD(model.parameters(), lr=0.1), mode="loss").remove()


@pytest.mark.parametrize("mode", ["loss", "gradient"])
def test_the_weights_are_never_looked_at_and_the_matrix_once_a_consolidation(mode, monkeypatch):
    model, ewc = held(1.0)
    looked = []
    monkeypatch.setattr(Diagonal, "peaks", lambda matrix, find=Diagonal.peaks: looked.append(1) or find(matrix))
    optimizer = SGD(model.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 1.01)
    with ewc.attach(model, optimizer, mode=mode):
        for _ in range(5):
            steps(model, optimizer)
            schedule.step()
            ewc.strength *= 1.01
        assert len(looked) == 1
        ewc.consolidate(model, curvature=Diagonal({"a": torch.ones(1)}))
        steps(model, optimizer, 5)
        assert len(looked) == 2


def test_a_rate_may_be_a_tensor_that_a_schedule_changes_in_place():
    model, ewc = held(10.0)
    rate = torch.tensor(0.1)
    optimizer = SGD(model.parameters(), lr=rate, foreach=False)
    with ewc.attach(model, optimizer, mode="gradient"):
        steps(model, optimizer)
        rate.fill_(0.3)
        assert len(warned(lambda: steps(model, optimizer, 3))) == 1


def test_a_closure_is_still_welcome_in_loss_mode():
    model, ewc = held(1.0)
    optimizer = SGD(model.parameters(), lr=0.5)
    model.a.data.fill_(1.0)

    def closure():
        optimizer.zero_grad()
        loss = ewc.penalty(model)
        loss.backward()
        return loss

    with ewc.attach(model, optimizer, mode="loss"):
        optimizer.step(closure)
    assert model.a.item() == 0.5


def test_a_model_that_changed_may_be_attached_and_consolidated_then():
    model, ewc = held(30.0)
    del model.a
    model.register_parameter("b", nn.Parameter(torch.zeros(1)))
    optimizer = SGD(model.parameters(), lr=0.1)
    fresh = EWC(1.0)
    with ewc.attach(model, optimizer, mode="loss"), fresh.attach(model, optimizer, mode="gradient"):
        fresh.consolidate(model, curvature=Diagonal({"b": torch.full((1,), 30.0)}))
        assert len(warned(lambda: steps(model, optimizer))) == 1


@pytest.mark.parametrize("mode", ["loss", "gradient"])
def test_a_pull_that_is_never_felt_is_inert(mode):
    model, ewc = held(1e-6, 1e-3)
    optimizer = SGD(model.parameters(), lr=0.01, momentum=0.9)
    ewc.strength = 0.011
    assert warned(lambda: ewc.attach(model, optimizer, mode=mode).remove()) == []
    ewc.strength = 0.009
    with pytest.warns(UserWarning, match=r"EWC is inert.*in 'a', importance 1.0e-06.*strength 0.009 takes back 9"):
        handle = ewc.attach(model, optimizer, mode=mode)
    assert warned(lambda: steps(model, optimizer, 3)) == []
    handle.remove()
    ewc.strength = 0.0
    assert warned(lambda: ewc.attach(model, optimizer, mode=mode).remove()) == []


def test_a_rate_that_is_still_to_rise_or_has_fallen_makes_nothing_inert():
    model, ewc = held(1.0)
    optimizer = SGD(model.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1e-12)

    def run():
        with ewc.attach(model, optimizer, mode="gradient"):
            steps(model, optimizer)
            schedule.step()
            steps(model, optimizer)
        with ewc.attach(model, SGD(model.parameters(), lr=0.0), mode="gradient"):
            pass

    assert warned(run) == []


def test_every_quadratic_method_says_where_nothing_matters():
    class Flat(EWC):
        """EWC whose estimate is nothing."""

        def estimate(self, model, data, outputs):
            return Diagonal({name: torch.zeros_like(weight) for name, weight in model.named_parameters()})

    with pytest.warns(UserWarning, match=r"Flat is inert: its largest importance is 0.0e\+00"):
        Flat(1.0).consolidate(Weights(a=torch.zeros(3)), [])
