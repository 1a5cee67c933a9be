"""Networks that learn the digits' first classes and then forget them over the others; data in every shape."""

import copy
import functools

import torch
from torch import nn
from torch.nn import functional

from forgetting import tasks


@functools.cache
def digits(classes=10, shift=0.0):
    """Train and test batches of the first classes, and of the others; inputs shifted by a constant."""
    split = tasks.digits()
    found = []
    for part in (split.train, split.test):
        inputs, targets = next(iter(part.batches(len(part))))
        inputs = inputs + shift
        found += [cut(inputs[targets < classes], targets[targets < classes]),
                  cut(inputs[targets >= classes], targets[targets >= classes])]
    return dict(zip(("train", "others", "test", "other test"), found, strict=True))


def cut(inputs, targets, size=64):
    """Shuffled batches, always the same."""
    order = torch.randperm(len(targets), generator=torch.Generator().manual_seed(1))
    return list(zip(inputs[order].split(size), targets[order].split(size), strict=True))


def learn(model, batches, epochs, rate=0.1):
    """Plain training, in train mode."""
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9)
    for _ in range(epochs):
        for inputs, targets in batches:
            optimizer.zero_grad()
            functional.cross_entropy(model(inputs), targets).backward()
            optimizer.step()
    return model


def seeded(build, seed=0):
    """A new network; the global generator is left as it was."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build()


def mlp():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 10))


def cnn():
    return nn.Sequential(nn.Conv2d(1, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3),
                         nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(), nn.Linear(16, 10))


@functools.cache
def forgot():
    """An MLP that knows the digits 0 to 4, and the same after it learned 5 to 9 without them."""
    data = digits(5)
    before = learn(seeded(mlp), data["train"], 8)
    return before, learn(copy.deepcopy(before), data["others"], 1, rate=0.05)


@functools.cache
def shifted():
    """A network with norm layers that knows the digits, and the same after forward passes over brighter ones in train
    mode: not one weight changed.
    """
    before = learn(seeded(cnn), digits()["train"], 6).eval()
    after = copy.deepcopy(before).train()
    with torch.no_grad():
        for _ in range(3):
            for inputs, _ in digits(shift=3.0)["train"]:
                after(inputs * 4)
    return before, after


def whole(batches):
    """All inputs and all labels."""
    return tuple(torch.cat(parts) for parts in zip(*batches, strict=True))


def state(model):
    """Everything that a comparison must leave as it was."""
    return ({name: value.clone() for name, value in model.state_dict().items()},
            [module.training for module in model.modules()],
            [(parameter.requires_grad, parameter.grad) for parameter in model.parameters()],
            [getattr(module, "momentum", None) for module in model.modules()],
            [(len(module._forward_hooks), len(module._forward_pre_hooks)) for module in model.modules()])


def unchanged(model, before):
    """Whether all of it is."""
    now = state(model)
    return now[1:] == before[1:] and all(torch.equal(value, before[0][name]) for name, value in now[0].items())
