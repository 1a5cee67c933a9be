"""What a diagonal Fisher costs beside a backward pass, and a penalty beside a training step.

Process-CPU time; the figure in brackets is the ratio to the fastest of its group, which is the plain one. The plain
backward pass runs in eval mode on the summed loss, with gradients None.
"""

import pytest
import torch
from torch import nn

import forgetting
import forgetting.fisher

EXAMPLES, CLASSES = 128, 10


def perceptron():
    return nn.Sequential(
        nn.Flatten(), nn.Linear(784, 400), nn.ReLU(), nn.Linear(400, 400), nn.ReLU(), nn.Linear(400, CLASSES)
    )


def convolutions():
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.AdaptiveAvgPool2d(4),
        nn.Flatten(), nn.Linear(512, CLASSES),
    )


MODELS = {"perceptron": perceptron, "convolutions": convolutions}


@pytest.fixture(params=MODELS)
def case(request):
    """A model and one batch."""
    torch.manual_seed(0)
    model = MODELS[request.param]().eval()
    return model, (torch.randn(EXAMPLES, 1, 28, 28), torch.randint(CLASSES, (EXAMPLES,)))


def backward(model, batch):
    """The plain pass."""
    model.zero_grad(set_to_none=True)
    nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="sum").backward()


@pytest.mark.benchmark(group="fisher")
def test_backward(benchmark, case):
    benchmark(backward, *case)


@pytest.mark.benchmark(group="fisher")
@pytest.mark.parametrize("labels", ["empirical", "sampled", "exact"])
def test_diagonal(benchmark, case, labels):
    model, batch = case
    benchmark(forgetting.fisher.diagonal, model, [batch], labels=labels)


def step(model, batch, optimizer, regularizer=None):
    """A training step, with a penalty in the loss or without."""
    loss = nn.functional.cross_entropy(model(batch[0]), batch[1])
    if regularizer is not None:
        loss = loss + regularizer.penalty(model)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


@pytest.mark.benchmark(group="step")
@pytest.mark.parametrize("mode", ["plain", "loss", "gradient", "proximal"])
def test_step(benchmark, case, mode):
    model, batch = case
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)
    ewc = forgetting.EWC(1.0, labels="empirical")
    ewc.consolidate(model, [batch])
    if mode in ("gradient", "proximal"):
        ewc.attach(model, optimizer, mode=mode)
    benchmark(step, model, batch, optimizer, ewc if mode == "loss" else None)
