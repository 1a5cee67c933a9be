"""SI with clipped gradients, beside the same steps written out."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from baselines.clipping import ClippedSI, clipped_si

RATE, STRENGTH, DAMPING = 0.2, 3.0, 0.5


def tasks():
    generator = torch.Generator().manual_seed(0)
    return [[(4 * torch.randn(6, 3, generator=generator, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1, 2]))
             for _ in range(5)] for _ in range(2)]


def by_hand(model):
    """Two tasks: lr·g² summed, g the total gradient clipped element by element; then what was summed ÷ distances."""
    weights = list(model.parameters())
    importance, anchors, clipped = [torch.zeros_like(weight) for weight in weights], None, False
    for task in tasks():
        starts = [weight.detach().clone() for weight in weights]
        paths = [torch.zeros_like(weight) for weight in weights]
        for inputs, targets in task:
            loss = functional.cross_entropy(model(inputs), targets)
            for place, gradient in enumerate(torch.autograd.grad(loss, weights)):
                if anchors is not None:
                    gradient = gradient + STRENGTH * importance[place] * (weights[place].detach() - anchors[place])
                clipped = clipped or bool((gradient.abs() > 1).any())
                gradient = gradient.clamp(-1, 1)
                paths[place] += RATE * gradient**2
                with torch.no_grad():
                    weights[place] -= RATE * gradient
        anchors = [weight.detach().clone() for weight in weights]
        importance = [known + path / ((anchor - start)**2 + DAMPING) for known, path, anchor, start
                      in zip(importance, paths, anchors, starts, strict=True)]
    assert clipped
    return importance


def test_the_path_is_that_of_the_total_clipped_gradient():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Linear(3, 3).double()
    twin = nn.Linear(3, 3).double()
    twin.load_state_dict(model.state_dict())
    expected = by_hand(twin)
    method = clipped_si(STRENGTH, DAMPING)
    si = method.regularizer()
    for task in tasks():
        optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
        with si.attach(model, optimizer, mode=method.mode):
            for inputs, targets in task:
                optimizer.zero_grad()
                functional.cross_entropy(model(inputs), targets).backward()
                optimizer.step()
        si.consolidate(model)
    torch.testing.assert_close(list(model.state_dict().values()), list(twin.state_dict().values()))
    found = si.consolidated.curvature.diagonal()
    torch.testing.assert_close([found["weight"], found["bias"]], expected)


def test_another_mode_is_refused():
    model = nn.Linear(3, 3)
    with pytest.raises(ValueError, match="'gradient'"):
        ClippedSI(1.0).attach(model, torch.optim.SGD(model.parameters(), lr=0.1), mode="loss")
