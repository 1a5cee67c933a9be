"""Where a source holds its examples is found by running, never guessed from shapes: data made to mislead it."""

import pytest
import torch
from torch import nn

from forgetting import fisher
from tests import networks, oracles
from tests.cases import cut
from tests.fisher.estimates import assert_close
from tests.oracles import Meaning

EXAMPLES, TOKENS = 8, 3


def check(model, inputs, size):
    torch.manual_seed(1)
    batch = inputs, torch.randint(3, (EXAMPLES,))
    truth = oracles.fisher(model, cut(batch, 1), meaning=Meaning(), labels="empirical")
    found = fisher.diagonal(model, cut(batch, size), labels="empirical")
    assert_close(found, truth)
    return found.routes


@pytest.fixture(params=[True, False], ids=["position-major", "example-major"])
def merged(request):
    torch.manual_seed(0)
    return networks.Merged(request.param).double()


def tokens():
    return torch.randn(EXAMPLES, TOKENS, 4, dtype=torch.float64)


def all_equal(x):
    return x[:1].expand_as(x).clone()


def first_two_equal(x):
    return torch.cat([x[:1], x[:1], x[2:]])


def constant_tokens(x):
    return x[:, :1].expand_as(x).clone()


def constant_first_example(x):
    return torch.cat([torch.ones_like(x[:1]), x[1:]])


def nearly_equal_examples(x):
    return x[:1] + 1e-5 * x


def nearly_equal_tokens(x):
    return x[:, :1] + 1e-5 * x


def palindrome(x):
    return torch.cat([x[:4], x[:4].flip(0)])


def half_zero(x):
    return torch.cat([torch.zeros_like(x[:4]), x[4:]])


@pytest.mark.parametrize("size", [2, 3, EXAMPLES])
@pytest.mark.parametrize("change", [
    all_equal, first_two_equal, constant_tokens, constant_first_example, nearly_equal_examples, nearly_equal_tokens,
    palindrome, half_zero])
def test_misleading_values(merged, change, size):
    check(merged, change(tokens()), size)


class HeadsFirst(nn.Module):
    """[heads · examples · tokens, width]: the examples stand in the middle of a merged dimension."""

    def __init__(self):
        super().__init__()
        self.inner, self.head = nn.Linear(2, 2), nn.Linear(4, 3)

    def forward(self, x):
        n, t, _ = x.shape
        y = x.view(n, t, 2, 2).permute(2, 0, 1, 3).reshape(-1, 2)
        return self.head(torch.tanh(self.inner(y)).view(2, n, t, 2).permute(1, 2, 0, 3).reshape(n, t, 4).mean(1))


class ExamplesInSpace(nn.Module):
    """A convolution of size one whose space dimension is the examples."""

    def __init__(self):
        super().__init__()
        self.inner, self.head = nn.Conv1d(4, 4, 1), nn.Linear(4, 3)

    def forward(self, x):
        return self.head(torch.tanh(self.inner(x.permute(1, 2, 0))).permute(2, 0, 1).mean(1))


class Frames(nn.Module):
    """Norm and convolution over merged frames [examples · tokens, channels, space]."""

    def __init__(self):
        super().__init__()
        self.norm, self.inner, self.head = nn.GroupNorm(1, 1), nn.Conv1d(1, 4, 2), nn.Linear(4, 3)

    def forward(self, x):
        y = torch.tanh(self.inner(self.norm(x.reshape(-1, 1, 4)))).mean(2)
        return self.head(y.view(len(x), -1, 4).mean(1))


@pytest.mark.parametrize("size", [1, 2, 3, EXAMPLES])
@pytest.mark.parametrize("kind", [HeadsFirst, ExamplesInSpace, Frames])
def test_unusual_places(kind, size):
    torch.manual_seed(0)
    routes = check(kind().double(), tokens(), size)
    assert (routes["inner.weight"] == "conv") == (kind is Frames)


@pytest.mark.parametrize("counts", [
    [2, 2, 2, 2, 3, 1, 2, 2], [2, 2, 2, 2, 1, 3, 3, 1], [2, 2, 3, 1, 2, 2, 1, 3], [3, 3, 3, 3, 3, 1, 2, 3]])
def test_packed_tokens_that_look_regular(counts):
    """As many rows in all as if every example had two, or a first batch in which every one has."""
    torch.manual_seed(0)
    model = networks.Unpadded().double()
    mask = torch.arange(TOKENS) < torch.tensor(counts)[:, None]
    check(model, (tokens(), mask), 4)
    check(model, (tokens(), mask), EXAMPLES)


def test_experts_that_see_other_examples_every_batch():
    torch.manual_seed(0)
    for _ in range(5):
        check(networks.Experts().double(), torch.randn(EXAMPLES, 4, dtype=torch.float64), 2)
