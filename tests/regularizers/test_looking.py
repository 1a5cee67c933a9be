"""To look at a penalty is not to train with it: a path is the same whether a log is written or not."""

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
            term = regularizer.penalty(model)
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
