"""Models and slow, obvious arithmetic for methods that compare what a model computes with what it computed."""

import math

import torch
from torch import nn
from torch.nn.utils import parametrizations


class Both(nn.Module):
    """A body, an embedding tied to its inverse, and one or two heads whose logits stand side by side."""

    def __init__(self):
        super().__init__()
        self.body = nn.Linear(4, 6)
        self.head = nn.Linear(6, 3)
        self.second = None

    def forward(self, inputs):
        features = torch.tanh(self.body(inputs))
        logits = self.head(features)
        return logits if self.second is None else torch.cat([logits, self.second(features)], 1)


class Recurrent(nn.Module):
    """An LSTM, which keeps references to its weights beside its parameters."""

    def __init__(self):
        super().__init__()
        self.cells = nn.LSTM(4, 5, batch_first=True)
        self.head = nn.Linear(5, 3)

    def forward(self, inputs):
        return self.head(self.cells(inputs.unsqueeze(1))[0][:, -1])


class Tied(nn.Module):
    """An output layer whose weight is the first layer's."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 3, bias=False)
        self.second = nn.Linear(4, 3)
        self.second.weight = self.first.weight

    def forward(self, inputs):
        return self.first(inputs) + self.second(inputs * 2)


def norms():
    """Batch statistics, dropout and a mode that its owner set."""
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.BatchNorm1d(6), nn.Linear(6, 3))
    model[3].eval()
    model[1].running_mean.normal_(generator=torch.Generator().manual_seed(3))
    return model


def transformer():
    layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
    return nn.Sequential(nn.Unflatten(1, (1, 4)), nn.TransformerEncoder(layer, 2, enable_nested_tensor=False),
                         nn.Flatten(), nn.Linear(4, 3))


MODELS = {
    "two layers": Both, "recurrent": Recurrent, "tied": Tied, "norms": norms, "transformer": transformer,
    "parametrized": lambda: nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 5)), nn.Linear(5, 3)),
}


def seeded(make, dtype=torch.float64, seed=0):
    """A model with the weights of a seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make().to(dtype)


def numbers(*shape, seed=1, dtype=torch.float64):
    """Normal numbers of a seed."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def shift(model, seed=2, distance=0.3):
    """Move every weight; a tied one once."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight += distance * torch.randn(weight.shape, generator=generator, dtype=torch.float64).to(weight.dtype)


def soft(row, temperature=1.0):
    """Softmax of one row of numbers, as its definition says."""
    powers = [math.exp(value / temperature) for value in row.tolist()]
    return [power / sum(powers) for power in powers]


def kl(first, second):
    """KL between two lists of probabilities."""
    return sum(p * math.log(p / q) for p, q in zip(first, second, strict=True) if p > 0)
