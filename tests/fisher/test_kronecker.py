"""K-FAC and EK-FAC against the whole Fisher matrix: exact where theory says so, and never worse than each other."""

import pytest
import torch
from torch import nn

from forgetting import fisher
from tests.fisher import dense
from tests.networks import Mean

EXACT = 1e-10


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def tokens(*shape, rows=5):
    return torch.randint(rows, shape, generator=torch.Generator().manual_seed(1))


def network(*layers):
    """Random weights and biases, the same each time; norms with statistics of their own."""
    with torch.random.fork_rng():
        torch.manual_seed(2)
        model = nn.Sequential(*layers).double()
        for name, parameter in model.named_parameters():
            nn.init.normal_(parameter, std=0.7 if name.endswith("weight") else 0.3)
    return model.eval()


class Turned(nn.Module):
    """A linear map by ``addmm``, its weight stored inputs first, as GPT-2's are."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.empty(inputs, outputs)), nn.Parameter(torch.empty(outputs))

    def forward(self, x):
        return torch.addmm(self.bias, x.flatten(0, -2), self.weight).unflatten(0, x.shape[:-1])


class Channels(nn.Module):
    """[n, channels, …] -> [n, positions, channels]."""

    def forward(self, x):
        return x.flatten(2).mT


def linear():
    return (nn.Linear(4, 5), nn.Linear(5, 3, bias=False), nn.Linear(3, 2))


# Deep linear networks whose positions have losses of their own, and such as average positions before the loss.
EXPAND = {
    "one position": (linear, normal(7, 4)),
    "positions": (linear, normal(7, 5, 4)),
    "two dimensions of positions": (linear, normal(6, 2, 3, 4)),
    "inputs first": (lambda: (Turned(4, 3), Turned(3, 2)), normal(7, 5, 4)),
    "look-up": (lambda: (nn.Embedding(5, 3), nn.Linear(3, 2)), tokens(7, 4)),
    "look-up with padding": (lambda: (nn.Embedding(5, 3, padding_idx=0), nn.Linear(3, 2)), tokens(7, 4)),
    "convolution": (lambda: (nn.Conv2d(2, 4, 2, stride=2), nn.Conv2d(4, 3, 1, bias=False)), normal(6, 2, 4, 4)),
    "convolution, dilated and padded": (lambda: (nn.Conv2d(2, 3, (2, 3), 1, (0, 2), (1, 2)), nn.Conv2d(3, 2, 1)),
                                        normal(6, 2, 3, 4)),
    "convolution of one dimension": (lambda: (nn.Conv1d(2, 4, 3, padding="same"), nn.Conv1d(4, 3, 1)), normal(6, 2, 5)),
    "convolution of three": (lambda: (nn.Conv3d(1, 3, 2), nn.Conv3d(3, 2, 1)), normal(4, 1, 3, 2, 3)),
}
REDUCE = {
    "one position": (linear, normal(7, 4)),
    "mean over positions": (lambda: (nn.Linear(4, 5), nn.Linear(5, 3), Mean(1), nn.Linear(3, 2)), normal(7, 5, 4)),
    "inputs first": (lambda: (Turned(4, 3), Mean(1), Turned(3, 2)), normal(7, 5, 4)),
    "convolution and pooling": (lambda: (nn.Conv2d(2, 4, 3, padding=0), nn.Conv2d(4, 3, 1), Channels(), Mean(1),
                                         nn.Linear(3, 2)), normal(6, 2, 4, 5)),
}


def estimates(model, inputs, **options):
    """K-FAC and EK-FAC in float64, exact labels under a Gaussian; batches of 3."""
    with torch.no_grad():
        data = list(zip(inputs.split(3), torch.zeros_like(model(inputs)).split(3), strict=True))
    return [fisher.kronecker(model, data, approximation=kind, likelihood=fisher.Gaussian(), **options)
            for kind in fisher.APPROXIMATIONS]


@pytest.mark.parametrize(("sharing", "name"), [("expand", name) for name in EXPAND] + [("reduce", n) for n in REDUCE])
def test_deep_linear_networks_are_exact_in_their_setting(sharing, name):
    layers, inputs = {"expand": EXPAND, "reduce": REDUCE}[sharing][name]
    model = network(*layers())
    kfac, ekfac = estimates(model, inputs, sharing=sharing)
    assert len(kfac.blocks) == sum(bool(list(layer.parameters())) for layer in model)
    assert not len(kfac.rest)
    for block in kfac.blocks:
        truth = dense.fisher(model, inputs, block.names, "gaussian")
        assert dense.error(dense.written_out(kfac, model, block.names), truth) <= EXACT, block.weight
        assert dense.error(dense.written_out(ekfac, model, block.names), truth) <= EXACT, block.weight


def test_a_grouped_convolution_has_the_blocks_of_its_groups():
    model = network(nn.Conv2d(4, 6, 2, stride=2, groups=2), nn.Conv2d(6, 2, 1))
    inputs = normal(6, 4, 4, 4)
    truth = dense.fisher(model, inputs, ("0.weight", "0.bias"), "gaussian")
    group = torch.cat([torch.arange(2).repeat_interleave(24), torch.arange(2).repeat_interleave(3)])
    truth *= group.unsqueeze(0) == group.unsqueeze(1)
    for matrix in estimates(model, inputs):
        assert dense.error(dense.written_out(matrix, model, ("0.weight", "0.bias")), truth) <= EXACT


NETS = {
    "mlp": (lambda: (nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)), normal(9, 4)),
    "cnn": (lambda: (nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 2, groups=2),
                     nn.Tanh(), Channels(), Mean(1), nn.Linear(4, 3)), normal(8, 2, 4, 4)),
    "transformer": (lambda: (nn.Embedding(5, 4), nn.TransformerEncoderLayer(4, 2, 6, batch_first=True), Mean(1),
                             nn.Linear(4, 3)), tokens(8, 3)),
}


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("sharing", fisher.SHARING)
def test_ekfac_is_no_worse_than_kfac_and_has_the_trace_of_the_fisher(name, sharing):
    layers, inputs = NETS[name]
    model, data = network(*layers()), [(inputs, torch.zeros(len(inputs), dtype=torch.long))]
    kfac, ekfac = (fisher.kronecker(model, data, approximation=kind, sharing=sharing) for kind in fisher.APPROXIMATIONS)
    for block in kfac.blocks:
        truth = dense.fisher(model, inputs, block.names, "categorical")
        errors = [dense.error(dense.written_out(matrix, model, block.names), truth) for matrix in (kfac, ekfac)]
        assert errors[1] <= errors[0] * (1 + 1e-9), block.weight
        assert ekfac.restricted(block.names).trace() == pytest.approx(float(truth.trace()), rel=1e-10)
        assert 0 < errors[0] < 1
    diagonal = fisher.diagonal(model, data)
    assert ekfac.trace() == pytest.approx(diagonal.trace(), rel=1e-10)
    assert set(ekfac.names()) == set(diagonal)
    for norm, value in ekfac.rest.items():
        assert dense.error(value, diagonal[norm]) <= EXACT


@pytest.mark.parametrize("labels", ["exact", "empirical"])
def test_of_one_position_kfac_is_the_product_of_two_means(labels):
    """E[xxᵀ] ⊗ E[ggᵀ], written down for a network with one hidden layer."""
    model, inputs, targets = network(*NETS["mlp"][0]()), normal(9, 4), torch.arange(9) % 3
    found = fisher.kronecker(model, [(inputs, targets)], labels=labels)
    hidden = torch.tanh(model[0](inputs)).detach()
    p = model(inputs).softmax(-1).detach()
    if labels == "exact":
        scores = [(p[:, c : c + 1].sqrt() * (nn.functional.one_hot(torch.tensor(c), 3) - p)) for c in range(3)]
    else:
        scores = [nn.functional.one_hot(targets, 3) - p]
    back = [score @ model[2].weight.detach() * (1 - hidden**2) for score in scores]
    one = torch.ones(9, 1, dtype=torch.float64)
    for block, x, gs in zip(found.blocks, (inputs, hidden), (back, scores), strict=True):
        x = torch.cat([x, one], 1)
        torch.testing.assert_close(block.matrix.a[0], x.T @ x / 9)
        torch.testing.assert_close(block.matrix.g[0], sum(g.T @ g for g in gs) / 9)


@pytest.mark.parametrize("sharing", fisher.SHARING)
def test_shared_positions_by_their_definition(sharing):
    """expand: A = Σ xxᵀ/(N·T), G = Σ ggᵀ/N over all positions; reduce: the same of means of x and sums of g."""
    model = network(nn.Linear(4, 5), nn.Tanh(), Mean(1), nn.Linear(5, 3))
    inputs, targets = normal(9, 6, 4), torch.arange(9) % 3
    found = fisher.kronecker(model, [(inputs, targets)], labels="empirical", sharing=sharing).blocks[0].matrix
    outputs = model[0](inputs).detach().requires_grad_()
    (g,) = torch.autograd.grad(model[1:](outputs).log_softmax(-1)[range(9), targets].sum(), outputs)
    x = torch.cat([inputs, torch.ones(9, 6, 1, dtype=torch.float64)], -1)
    x, g = (x.flatten(0, 1), g.flatten(0, 1)) if sharing == "expand" else (x.mean(1), g.sum(1))
    torch.testing.assert_close(found.a[0], x.T @ x / len(x))
    torch.testing.assert_close(found.g[0], g.T @ g / 9)
    counted = network(nn.Embedding(5, 3, padding_idx=2), Mean(1))
    words = tokens(9, 4)
    a = fisher.kronecker(counted, [(words, targets)], labels="empirical", sharing=sharing).blocks[0].matrix.a[0]
    ones = nn.functional.one_hot(words, 5).double() * torch.tensor([1, 1, 0, 1, 1])
    means = ones.flatten(0, 1).mean(0) if sharing == "expand" else ones.mean(1).square().mean(0)
    torch.testing.assert_close(a, means)
