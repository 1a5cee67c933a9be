"""Models and matrices small enough to check by hand."""

import torch
from torch import nn

from forgetting.curvature import Diagonal


class Weights(nn.Module):
    """A module that is nothing but its parameters."""

    def __init__(self, **values):
        super().__init__()
        for name, value in values.items():
            self.register_parameter(name, nn.Parameter(torch.as_tensor(value).clone()))


def importances(model, seed, zeros=0.3):
    """A random diagonal in the model's dtype with a share of exact zeros, and very large and very small entries."""
    generator = torch.Generator().manual_seed(seed)
    values = {}
    for name, weight in model.named_parameters():
        draw = 10 ** (6 * torch.rand(weight.shape, generator=generator, dtype=torch.float64) - 4)
        draw[torch.rand(weight.shape, generator=generator) < zeros] = 0.0
        values[name] = draw.to(torch.promote_types(weight.dtype, torch.float32))
    return Diagonal(values)


def move(model, seed, distance=1.0):
    """Set every weight to a random place."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(distance * torch.randn(weight.shape, generator=generator, dtype=torch.float64))
