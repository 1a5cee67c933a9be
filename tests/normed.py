"""A small network with norm layers, how it is trained, and what moved in it."""

import torch
from torch import nn
from torch.nn import functional


def network(affine=True):
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4, affine=affine), nn.ReLU(), nn.Conv2d(4, 4, 3),
                         nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))


def images(examples=8, channels=1, size=8):
    return torch.randn(examples, channels, size, size, generator=torch.Generator().manual_seed(0)) * 2 + 3


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def moved(model, before):
    return {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}


def train(model, optimizer, *, steps=3, set_to_none=True):
    model.train()
    for _ in range(steps):
        optimizer.zero_grad(set_to_none=set_to_none)
        output = model(images())
        functional.cross_entropy(output, torch.arange(8) % 3).backward()
        optimizer.step()
