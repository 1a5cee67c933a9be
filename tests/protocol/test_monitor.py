"""A monitor measures in anybody's loop and leaves the model as found."""

import types

import pytest
import torch
from torch import nn
from torch.nn import functional

from forgetting.protocol import Monitor
from tests.protocol import tiny

SEQUENCE = tiny.sequence()


def loop(steps, monitor=None):
    """A loop of one's own, with dropout and a norm layer that its owner holds still; weights and generator after it."""
    torch.manual_seed(0)
    model = tiny.network(SEQUENCE)
    model[1].eval()
    model[0].bias.requires_grad_(False)
    monitor = monitor and monitor(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    data = SEQUENCE[0].train
    for _ in range(steps):
        functional.cross_entropy(model(data.inputs), data.targets).backward()
        optimizer.step()
        if monitor:
            monitor.step()
        optimizer.zero_grad()
    return model, monitor


def test_the_model_is_left_as_found():
    plain, _ = loop(6)
    rng = torch.get_rng_state()
    model, monitor = loop(6, lambda model: Monitor(model, SEQUENCE, every=2))
    assert torch.equal(torch.get_rng_state(), rng)
    assert all(torch.equal(value, plain.state_dict()[name]) for name, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == [True, True, False, True, True, True]
    assert not model[0].bias.requires_grad
    assert [entry["step"] for entry in monitor.history] == [2, 4, 6]


def test_gradients_are_left_as_found():
    model = tiny.network(SEQUENCE)
    functional.cross_entropy(model(SEQUENCE[0].train.inputs), SEQUENCE[0].train.targets).backward()
    before = [parameter.grad for parameter in model.parameters()]
    copies = [gradient.clone() for gradient in before]
    Monitor(model, SEQUENCE, every=1).step()
    for parameter, gradient, copy in zip(model.parameters(), before, copies, strict=True):
        assert parameter.grad is gradient
        assert torch.equal(gradient, copy)


def test_an_error_leaves_it_as_found_too():
    class Broken(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(tiny.FEATURES, 6)

        def forward(self, inputs):
            return self.layer(inputs) if self.training else self.layer(inputs)[:, :2]

    model = Broken()
    with pytest.raises(ValueError, match=r"outputs of shape \(30, 2\), expected \[examples, classes\] .*\(2, 3\)"):
        Monitor(model, SEQUENCE, every=1).measure()
    assert model.training
    assert model.layer.training


def test_accuracy_by_hand():
    model = nn.Linear(tiny.FEATURES, 6)
    monitor = Monitor(model, SEQUENCE, every=3)
    assert monitor.step() is None
    assert monitor.step() is None
    found = monitor.step()
    for task in SEQUENCE:
        first = task.outputs[0]
        right = model(task.test.inputs)[:, first: first + 2].argmax(1) + first == task.test.targets
        assert found[task.name] == right.double().mean().item()
    assert monitor.history == [{"step": 3, "accuracy": found}]


def test_columns_may_be_given():
    model = nn.Linear(tiny.FEATURES, 6)
    found = Monitor(model, SEQUENCE, every=1, columns=[range(6)] * 3).measure()
    right = model(SEQUENCE[2].test.inputs).argmax(1) == SEQUENCE[2].test.targets
    assert found["task 3"] == right.double().mean().item()


def test_outputs_with_logits_are_unwrapped():
    class Wrapped(nn.Linear):
        def forward(self, inputs):
            return types.SimpleNamespace(logits=super().forward(inputs))

    model = Wrapped(tiny.FEATURES, 6)
    plain = nn.Linear(tiny.FEATURES, 6)
    plain.load_state_dict(model.state_dict())
    assert Monitor(model, SEQUENCE, every=1).measure() == Monitor(plain, SEQUENCE, every=1).measure()


@pytest.mark.parametrize("arguments", [{"tasks": (), "every": 1}, {"tasks": SEQUENCE, "every": 0},
                                       {"tasks": SEQUENCE, "every": 1, "columns": [(0, 1)]}])
def test_bad_input(arguments):
    with pytest.raises(ValueError, match="a monitor needs tasks, every ≥ 1 and one set of columns a task"):
        Monitor(nn.Linear(tiny.FEATURES, 6), **arguments)
