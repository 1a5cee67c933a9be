"""A path leaves out what the penalty added to the gradients: all of it, and nothing that it did not add."""

import copy

import pytest
import torch
from torch import nn

from forgetting.regularizers import SI, RWalk


def walked(kind, mode, *, look):
    """The path's integral after a few steps of a second task."""
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    data = [(torch.randn(8, 4, generator=generator).double(), torch.randint(3, (8,), generator=generator))
            for _ in range(6)]
    regularizer, optimizer = kind(5.0), torch.optim.SGD(model.parameters(), lr=0.05)
    with regularizer.attach(model, optimizer, mode=mode):
        for number, (inputs, targets) in enumerate(data):
            if number == 3:
                regularizer.consolidate(model, copy.deepcopy(data[:3]))
            loss = nn.functional.cross_entropy(model(inputs), targets)
            term = regularizer.penalty(model) if look or mode == "loss" else None
            if look and term.requires_grad:
                torch.autograd.grad(term, list(model.parameters()), retain_graph=True, allow_unused=True)
            optimizer.zero_grad()
            (loss + term if mode == "loss" else loss).backward()
            optimizer.step()
    return regularizer.state_dict()["path"]["integral"]


@pytest.mark.parametrize("kind", [SI, RWalk])
@pytest.mark.parametrize("mode", ["loss", "gradient", "proximal"])
def test_looking_at_a_penalty_leaves_the_path_alone(kind, mode):
    without, looked = (walked(kind, mode, look=look) for look in (False, True))
    assert any(value.any() for value in without.values())
    for name, value in without.items():
        assert torch.equal(looked[name], value)


def paths_end(build, *, split):
    """The path's integral of the tasks' own gradient after a step with the penalty, in one backward pass or in two."""
    model, data = build()
    regularizer, optimizer = SI(5.0), torch.optim.SGD(model.parameters(), lr=0.05)
    with regularizer.attach(model, optimizer):
        for number, inputs in enumerate(data):
            loss, term = model(inputs).square().mean(), regularizer.penalty(model)
            optimizer.zero_grad()
            if split:
                loss.backward()
                if term.requires_grad:
                    term.backward()
            else:
                (loss + term).backward()
            optimizer.step()
            if number == 0:
                regularizer.consolidate(model)
                if hasattr(model, "grown"):
                    model.grown()
                    optimizer.add_param_group({"params": [model.scale]})
    return regularizer.state_dict()["path"]["integral"]


class Grown(nn.Module):
    """Gains a parameter that stands before all others and that the penalty does not cover."""

    def __init__(self):
        super().__init__()
        self.body = nn.Linear(4, 3)

    def grown(self):
        self.scale = nn.Parameter(torch.ones(3, dtype=torch.float64))

    def forward(self, inputs):
        return self.body(inputs) * getattr(self, "scale", 1.0)


def grown():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Grown().double(), [torch.randn(8, 4, dtype=torch.float64) for _ in range(4)]


def test_a_parameter_that_the_penalty_does_not_cover_is_not_what_tells():
    one, two = (paths_end(grown, split=split) for split in (False, True))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value)
