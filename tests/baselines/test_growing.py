"""A penalty that grows with the tasks behind, and the old classes that its answers are about."""

import copy

import torch
from torch import nn
from torch.nn import functional

from baselines.growing import SeenLwF, slowing_lwf


def batch(*classes):
    return [(torch.ones(len(classes), 3), torch.tensor(classes))]


def test_only_the_classes_seen_so_far_are_distilled_in_one_softmax():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, inputs = nn.Linear(3, 6).double(), torch.randn(5, 3, dtype=torch.float64)
        lwf = SeenLwF(1.0)
        lwf.consolidate(model, batch(4, 1), outputs=range(6))
        lwf.consolidate(model, batch(0, 4), outputs=range(6))
        before = copy.deepcopy(model)
        with torch.no_grad():
            model.bias += torch.randn(6, dtype=torch.float64)
    seen, expected = [0, 1, 4], 0.0
    for one in inputs:  # example by example, from the definition
        old = functional.softmax(before(one)[seen] / 2, dim=0)
        new = functional.softmax(model(one)[seen] / 2, dim=0)
        expected += sum(float((p * (p.log() - q.log())).detach()) for p, q in zip(old, new, strict=True))
    assert expected > 0.01
    torch.testing.assert_close(lwf.penalty(model, inputs, model(inputs)).item(), 4 * expected / len(inputs))


def test_the_strength_is_that_of_the_published_weights():
    """CE/t + (1 − 1/t)(t − 1)·KL without T² is (CE + (t − 1)²·KL)/t: strength (t − 1)²/4 at temperature 2."""
    made = slowing_lwf(strength=0.25, power=2.0).regularizer()
    for task in range(2, 6):
        made.consolidate(nn.Linear(3, 6), batch(0, 1), outputs=range(6))
        assert made.inner.strength * made.inner.temperature**2 == (task - 1) ** 2
