"""A pull that counts twice is announced, and arguments that came swapped are refused."""

import copy
import gc
import warnings

import pytest
import torch
from torch import nn

from forgetting.curvature import Diagonal
from forgetting.regularizers import EWC, L2SP
from tests.regularizers.small import Weights
from tests.regularizers.test_stability import warned

pulling = pytest.mark.parametrize("mode", ["gradient", "proximal"])


def start(strength=0.5):
    """A weight one away from its anchor, and EWC around that."""
    model = Weights(a=torch.zeros(3), b=torch.zeros(2))
    ewc = EWC(strength)
    ewc.consolidate(model, curvature=Diagonal({"a": torch.ones(3), "b": torch.ones(2)}))
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(1.0)
    return model, ewc, torch.optim.SGD(model.parameters(), lr=0.1)


def learn(model, optimizer, *penalties, steps=3):
    """Steps of a task, with penalties in the loss."""
    for _ in range(steps):
        optimizer.zero_grad()
        (model.a.square().sum() + sum(penalty(model) for penalty in penalties)).backward()
        optimizer.step()


@pulling
def test_a_penalty_in_the_loss_of_what_pulls_by_itself_is_announced_once(mode):
    model, ewc, optimizer = start()
    with ewc.attach(model, optimizer, mode=mode):
        said = warned(lambda: learn(model, optimizer, ewc.penalty))
        assert len(said) == 1
        assert "the pull of this EWC counts twice" in said[0]
        assert "Leave penalty(model) out of the loss" in said[0]
    assert warned(lambda: learn(model, optimizer, ewc.penalty)) == []
    with ewc.attach(model, optimizer, mode=mode):
        assert len(warned(lambda: learn(model, optimizer, ewc.penalty))) == 1


def test_the_pull_that_it_speaks_of_is_the_double():
    model, ewc, optimizer = start()
    with ewc.attach(model, optimizer, mode="gradient"):
        with pytest.warns(UserWarning, match="counts twice"):
            ewc.penalty(model).backward()
        optimizer.step()
    assert model.a.grad.tolist() == [1.0, 1.0, 1.0]  # 2 · strength 0.5


@pulling
@pytest.mark.parametrize("name", ["set to none", "zeroed"])
def test_whatever_the_gradients_were_before(mode, name):
    model, ewc, optimizer = start()
    for weight in model.parameters():
        weight.grad = None if name == "set to none" else torch.zeros_like(weight)
    with ewc.attach(model, optimizer, mode=mode), pytest.warns(UserWarning, match="counts twice"):
        (ewc.penalty(model) / 4).backward()


@pulling
def test_to_look_at_a_penalty_is_not_to_count_it(mode):
    model, ewc, optimizer = start()

    def look(network):
        value = ewc.penalty(network)
        torch.autograd.grad(value, list(network.parameters()), retain_graph=True)
        with torch.no_grad():
            ewc.penalty(network)
        return 0 * value

    with ewc.attach(model, optimizer, mode=mode):
        assert warned(lambda: learn(model, optimizer, look)) == []


@pulling
def test_others_penalties_and_others_modes_are_none_of_its_business(mode):
    model, ewc, optimizer = start()
    other, listening = L2SP(0.1), EWC(0.1)
    other.consolidate(model)
    listening.consolidate(model, curvature=Diagonal({"a": torch.ones(3)}))
    with ewc.attach(model, optimizer, mode=mode), listening.attach(model, optimizer, mode="loss"):
        assert warned(lambda: learn(model, optimizer, other.penalty, listening.penalty)) == []
        twin = copy.deepcopy(ewc)
        assert warned(lambda: learn(model, optimizer, twin.penalty)) == []


def test_what_is_attached_twice_is_attached_until_the_last_handle_is_removed():
    model, ewc, first = start()
    second = torch.optim.SGD([model.b], lr=0.1)
    one, other = ewc.attach(model, first, mode="gradient"), ewc.attach(model, second, mode="gradient")
    one.remove()
    assert len(warned(lambda: learn(model, second, ewc.penalty))) == 1
    other.remove()
    assert warned(lambda: learn(model, second, ewc.penalty)) == []


@pulling
def test_what_was_attached_once_may_be_in_the_loss_afterwards(mode):
    model, ewc, optimizer = start()
    with ewc.attach(model, optimizer, mode=mode):
        optimizer.step()
    assert warned(lambda: learn(model, optimizer, ewc.penalty)) == []


def test_an_optimizer_that_is_gone_pulls_no_longer():
    model, ewc, optimizer = start()
    ewc.attach(model, optimizer, mode="gradient")
    del optimizer
    gc.collect()
    assert warned(lambda: learn(model, torch.optim.SGD(model.parameters(), lr=0.1), ewc.penalty)) == []


def test_under_a_compiler():
    model, ewc, optimizer = start()
    whole = torch.compile(lambda network: network.a.square().sum() + ewc.penalty(network), backend="eager")
    with ewc.attach(model, optimizer, mode="gradient"), pytest.warns(UserWarning, match="counts twice"):
        whole(model).backward()


@pytest.mark.parametrize("mode", ["loss", "gradient", "proximal"])
def test_swapped_arguments_are_refused(mode):
    model, ewc, optimizer = start()
    with pytest.raises(TypeError, match=r"not a Weights: model and optimizer came swapped, attach\(model, optimizer\)"):
        ewc.attach(optimizer, model, mode=mode)
    with pytest.raises(TypeError, match=r"takes a torch.optim.Optimizer, not a list$"):
        ewc.attach(model, [optimizer], mode=mode)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ewc.attach(nn.Sequential(model), optimizer, mode="loss").remove()
