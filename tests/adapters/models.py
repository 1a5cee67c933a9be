"""Models with adapters, made without peft where a test is about the product alone."""

import torch
from torch import nn

from forgetting.adapters.pairs import Pair


class Mixed(nn.Module):
    """A convolution, a norm, a point convolution, linear layers and a head."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, padding=1, stride=2)
        self.norm = nn.BatchNorm2d(4)
        self.point = nn.Conv2d(4, 5, 1, bias=False)
        self.body = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Dropout(0.5), nn.Linear(6, 4))
        self.head = nn.Linear(4, 3)

    def forward(self, inputs):
        features = torch.tanh(self.point(torch.tanh(self.norm(self.stem(inputs)))))
        return self.head(self.body(features.mean((2, 3))))


def mixed(dtype=torch.float64):
    """The model, in eval mode but for a part of its body, with statistics that are not those of a fresh norm."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Mixed()
    model.norm.running_mean.uniform_(-1, 1, generator=torch.Generator().manual_seed(1))
    model.eval()
    model.body.train()
    model.body[2].eval()
    return model.to(dtype)


def images(count=6, seed=2, dtype=torch.float64):
    """Inputs and labels."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, 2, 6, 6, generator=generator, dtype=dtype)
    return inputs, torch.randint(3, (count,), generator=generator)


def move(model, seed=3, distance=0.3):
    """Move every trainable weight, by the same seed to the same place."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                step = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
                parameter.add_(distance * step.to(parameter.dtype))


def pair(m, n, rank, *, scale=0.7, transposed=False, window=(), dtype=torch.float64, seed=0):
    """Random factors and a random importance of the weight's shape."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    up, down = random(m, rank, *(1 for _ in window)).requires_grad_(), random(rank, n, *window).requires_grad_()
    shape = (n, m) if transposed else (m, n, *window)
    return Pair(up, down, scale, transposed, shape), random(*shape).square()


def dense(pair, importance):
    """½·Σ F∘(s·BA)² as it is written, with the whole product."""
    change = pair.scale * torch.einsum("mr,rn->mn", pair.up.flatten(1), pair.down.flatten(1))
    change = change.t() if pair.transposed else change.reshape(pair.shape)
    return 0.5 * (importance * change.square()).sum()
