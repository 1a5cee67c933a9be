"""One dispatcher an optimizer: a fixed order, no trace left, no second count."""

import copy
import gc
import itertools
import weakref

import pytest
import torch

from forgetting.curvature import Diagonal
from forgetting.regularizers import EWC
from forgetting.regularizers.steps import STAGES, register
from tests.regularizers.small import Weights


class Path:
    """What a path integral will be: it reads the task's gradient and the whole step's end."""

    def __init__(self, weight, log):
        self.weight, self.log = weight, log

    def listen(self, step):
        self.log.append(("listen", self.weight.grad.item(), self.weight.item()))

    def finish(self, step):
        self.log.append(("finish", self.weight.item()))


def ewc_at(model, strength):
    ewc = EWC(strength)
    ewc.consolidate(model, curvature=Diagonal({"a": torch.ones(1)}))
    return ewc


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_the_order_is_fixed_whatever_the_order_of_registration(order):
    model = Weights(a=[0.0])
    pulling, proximal, log = ewc_at(model, 2.0), ewc_at(model, 4.0), []
    model.a.data.fill_(1.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.25)
    path = Path(model.a, log)
    attach = [
        lambda: register(optimizer, path, {"finish": path.finish, "listen": path.listen}),
        lambda: pulling.attach(model, optimizer, mode="gradient"),
        lambda: proximal.attach(model, optimizer, mode="proximal"),
    ]
    handles = [attach[index]() for index in order]
    assert len(optimizer._optimizer_step_pre_hooks) == len(optimizer._optimizer_step_post_hooks) == 1
    model.a.grad = torch.tensor([1.0])
    optimizer.step()
    # The path sees the task's gradient 1, not 1 + 2; then 1 − 0.25·(1 + 2) = 0.25, halved by the proximal step.
    assert log == [("listen", 1.0, 1.0), ("finish", 0.125)]
    for handle in handles:
        assert optimizer._optimizer_step_pre_hooks
        handle.remove()
        handle.remove()
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks


def test_a_handle_can_end_and_begin_again():
    model = Weights(a=[0.0])
    ewc = ewc_at(model, 1.0)
    model.a.data.fill_(1.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for expected in (0.5, 0.25):
        with ewc.attach(model, optimizer, mode="gradient"):
            optimizer.step()
        assert model.a.item() == expected
        optimizer.zero_grad()
        optimizer.step()
        assert model.a.item() == expected


@pytest.mark.parametrize("second", ["gradient", "proximal"])
def test_nothing_pulls_twice(second):
    model = Weights(a=[0.0])
    ewc = ewc_at(model, 1.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    with ewc.attach(model, optimizer, mode="gradient"):
        with pytest.raises(ValueError, match="EWC is attached to this optimizer already"):
            ewc.attach(model, optimizer, mode=second)
        with ewc_at(model, 1.0).attach(model, optimizer, mode=second):
            pass
        assert optimizer._optimizer_step_pre_hooks


def test_neither_optimizer_nor_model_is_kept_alive():
    model = Weights(a=[0.0])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    ewc = ewc_at(model, 1.0)
    handle = ewc.attach(model, optimizer, mode="gradient")
    watched = [weakref.ref(model), weakref.ref(optimizer)]
    del model, optimizer, handle
    gc.collect()
    assert [reference() for reference in watched] == [None, None]


def test_a_copied_optimizer_has_no_hooks():
    model = Weights(a=[0.0])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    with ewc_at(model, 1.0).attach(model, optimizer, mode="gradient"):
        twin = copy.deepcopy(optimizer)
    assert not twin._optimizer_step_pre_hooks


def test_an_action_that_fails_fails_the_step():
    model = Weights(a=[0.0])
    ewc = ewc_at(model, 1.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    model.a.grad = torch.ones(1)
    with ewc.attach(model, optimizer, mode="gradient"):
        other = model.a
        del model.a
        model.register_parameter("b", other)
        with pytest.raises(ValueError, match="parameters="):
            optimizer.step()
    assert model.b.item() == 0.0


def test_bad_owners_are_refused():
    model = Weights(a=[0.0])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    with pytest.raises(ValueError, match=r"unknown stages \['puII'\]: choose from listen, pull"):
        register(optimizer, object(), {"puII": lambda step: None})
    with pytest.raises(TypeError, match=r"takes a torch.optim.Optimizer, not a Weights"):
        register(model, object(), {stage: lambda step: None for stage in STAGES})
    assert not optimizer._optimizer_step_pre_hooks
