"""Models whose outputs look right under any capture, and whose gradients are easily lost or given to another."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from forgetting import fisher
from forgetting.fisher.accumulate import Accumulator
from tests import oracles
from tests.cases import cut
from tests.fisher.estimates import assert_close
from tests.networks import Applied, Scaled, raw
from tests.oracles import Meaning


def data(*shape, examples=5):
    return torch.randn(examples, *shape), torch.randint(3, (examples,))


def parts(**more):
    return {"inner": nn.Linear(4, 4), "head": nn.Linear(4, 3), **more}


def merged_in_place(m, x):
    weight = m.w.clone()
    weight += m.b @ m.a
    return F.linear(x, weight)


def written_into(m, x):
    weight = m.w.clone()
    weight[0] = m.q
    weight[:, 1].add_(m.column)
    return F.linear(x, weight)


def added_to_a_view(m, x):
    z = torch.tanh(m.inner(x)) * 1
    z[:, :2].add_(m.p)
    y = z.view(-1, 2, 2)
    y.mul_(2)
    return m.head(z)


def added_to_a_view_of_inputs(m, x):
    z = x.clone()
    z[:, 0].add_(m.p)
    return m.head(z)


def sorted_and_shared(m, x):
    order = x[:, 0].argsort()
    return m.head(torch.tanh(m.inner(torch.tanh(m.inner(x[order]))[order.argsort()])))


def flipped_and_shared(m, x):
    return m.head(torch.tanh(m.inner(torch.tanh(m.inner(x.flip(0))).flip(0))))


def packed(m, x, mask):
    h = torch.zeros_like(x)
    h[mask] = torch.tanh(m.inner(x[mask]))
    return m.head(h.sum(1))


def routed(m, x):
    """A mixture of experts, token by token."""
    kind, h = (x * 3).sum(-1).long() % 3, torch.zeros_like(x)
    for number, expert in enumerate(m.experts):
        h[kind == number] = torch.tanh(expert(x[kind == number]))
    return m.head(h.sum(1))


def packed_sequence(m, x, lengths):
    packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    out, _ = pad_packed_sequence(packed._replace(data=torch.tanh(m.inner(packed.data))), batch_first=True,
                                 total_length=x.shape[1])
    return m.head(out.sum(1))


def repeated_by_values(m, x, times):
    owner = torch.repeat_interleave(torch.arange(len(x)), times)
    h = torch.tanh(m.inner(torch.repeat_interleave(x, times, dim=0)))
    return m.head(torch.zeros_like(x).index_add(0, owner, h))


class Referred(nn.Module):
    """Reaches its parameter by a list, which no swapping of attributes changes."""

    def __init__(self):
        super().__init__()
        self.p, self.head = raw(4), nn.Linear(4, 3)
        self.also = [self.p]

    def forward(self, x):
        return self.head(Scaled.apply(x, self.also[0]))


MASK = torch.tensor([[1, 0, 0], [0, 0, 0], [1, 1, 0]]).bool()
MODELS = {
    "merged in place": lambda: (Applied(merged_in_place, w=raw(3, 4), a=raw(2, 4), b=raw(3, 2)), data(4)),
    "written into": lambda: (Applied(written_into, w=raw(3, 4), q=raw(4), column=raw(3)), data(4)),
    "added to a view": lambda: (Applied(added_to_a_view, **parts(p=raw(2))), data(4)),
    "added to a view of inputs": lambda: (Applied(added_to_a_view_of_inputs, **parts(p=raw(1))), data(4)),
    "sorted and shared": lambda: (Applied(sorted_and_shared, **parts()), data(4, examples=7)),
    "flipped and shared": lambda: (Applied(flipped_and_shared, **parts()), data(4, examples=7)),
    "packed, as many tokens as examples": lambda: (Applied(packed, **parts()), (
        (torch.randn(3, 3, 4), MASK), torch.tensor([0, 2, 1]))),
    "packed, equal tokens": lambda: (Applied(packed, **parts()), (
        (torch.ones(3, 3, 4), MASK), torch.tensor([0, 2, 1]))),
    "packed sequence": lambda: (Applied(packed_sequence, **parts()), (
        (torch.randn(4, 3, 4), torch.tensor([3, 1, 1, 3])), torch.tensor([0, 2, 1, 1]))),
    "repeated by values": lambda: (Applied(repeated_by_values, **parts()), (
        (torch.randn(4, 4), torch.tensor([2, 1, 3, 2])), torch.tensor([0, 2, 1, 1]))),
    "a factor among the arguments": lambda: (Applied(
        lambda m, x: m.head(torch.add(x, m.p, alpha=2) + torch.tile(m.p, (len(x), 1))), **parts(p=raw(1, 4))), data(4)),
    "one element many times": lambda: (Applied(
        lambda m, x: m.head(x) + sum(m.p[0] * x[:, :3] * 0.01 for _ in range(256)), **parts(p=raw(300))), data(4)),
    "scaled by frequency": lambda: (Applied(
        lambda m, x: m.head((x + F.embedding(torch.tensor([0, 0, 1]), m.p, scale_grad_by_freq=True)).tanh().mean(1)),
        **parts(p=raw(2, 4))), data(3, 4)),
    "referred to by a list": lambda: (Referred(), data(4)),
}


def held_against_the_oracle(model, batches):
    examples = [one for batch in batches for one in cut(batch, 1)]
    truth = oracles.fisher(model, examples, meaning=Meaning(), labels="empirical")
    found = fisher.diagonal(model, batches, labels="empirical")
    assert_close(found, truth, 1e-9)
    return found


@pytest.fixture(autouse=True)
def float64():
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("name", MODELS)
def test_no_gradient_is_lost(name):
    model, batch = MODELS[name]()
    held_against_the_oracle(model, [batch])


@pytest.mark.parametrize("seed", range(4))
def test_tokens_that_are_routed(seed):
    torch.manual_seed(seed)
    model = Applied(routed, experts=nn.ModuleList([nn.Linear(4, 4) for _ in range(3)]), head=nn.Linear(4, 3))
    held_against_the_oracle(model, [data(3, 4, examples=3) for _ in range(8)])


def test_a_shared_tensor_as_long_as_the_last_batch():
    """Three rows of a mask that all examples share, and a last batch of three examples."""
    mask = torch.rand(3, 3)
    model = Applied(lambda m, x, mask: m.head((mask @ Scaled.apply(x, m.p)).tanh().mean(1)), p=raw(4),
                    head=nn.Linear(4, 3))
    batches = [((torch.randn(n, 3, 4), mask), torch.randint(3, (n,))) for n in (5, 5, 3)]
    truth = [{name: torch.zeros_like(value) for name, value in model.named_parameters()}, 0]
    for (inputs, shared), targets in batches:
        for one, target in zip(inputs, targets, strict=True):
            score = -F.cross_entropy(model(one[None], shared), target[None])
            for (name, _), gradient in zip(model.named_parameters(),
                                           torch.autograd.grad(score, list(model.parameters())), strict=True):
                truth[0][name] += gradient.square()
            truth[1] += 1
    found = fisher.diagonal(model, batches, labels="empirical")
    assert_close(found, {name: value / truth[1] for name, value in truth[0].items()}, 1e-9)


def test_squares_do_not_pass_through_half_precision():
    model = Applied(lambda m, x: F.linear(x.half(), m.w.to(torch.float16)).float() * 0.1, w=raw(3, 4)).float()
    inputs, targets = torch.randn(5, 4).float() * 1e-3, torch.tensor([0, 1, 2, 0, 1])
    truth = oracles.fisher(model, cut((inputs, targets), 1), meaning=Meaning(), labels="empirical")
    found = fisher.diagonal(model, [(inputs, targets)], labels="empirical")
    assert_close(found, truth, 2e-2)


def test_a_rule_that_loses_a_gradient_is_not_trusted(monkeypatch):
    """Whatever it is that goes wrong: for two examples the rules are held against autograd, and the fallback serves."""
    from forgetting.fisher.rules import linear

    right = linear.Linear._outer

    def wrong(self, sources, powers, totals, power):
        right(self, sources, powers * 1.5, totals, power)

    monkeypatch.setattr(linear.Linear, "_outer", wrong)
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 3))
    routes = held_against_the_oracle(model, [data(4), data(4)]).routes
    assert routes["0.weight"] == routes["2.weight"] == "vmap"
    assert routes["1.weight"] == "layer_norm"


def test_a_gross_error_does_not_hide_another(monkeypatch):
    from forgetting.fisher.rules import linear

    right = linear.Linear._outer

    def wrong(self, sources, powers, totals, power):
        right(self, sources, powers * (1e9 if powers.shape[1] == 3 else 1.5), totals, power)

    monkeypatch.setattr(linear.Linear, "_outer", wrong)
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 3)).float()
    torch.manual_seed(0)
    batch = torch.randn(5, 4, dtype=torch.float32), torch.randint(3, (5,))
    routes = fisher.diagonal(model, [batch], labels="empirical").routes
    assert routes["0.weight"] == routes["2.weight"] == "vmap"


def test_the_rules_are_held_against_autograd_once(monkeypatch):
    seen = []
    compare = Accumulator._compare
    monkeypatch.setattr(Accumulator, "_compare", lambda self, *args: seen.append(1) or compare(self, *args))
    fisher.diagonal(nn.Linear(4, 3), [data(4), data(4), data(4)])
    assert seen == [1]


@pytest.mark.parametrize("how", [torch.no_grad, torch.inference_mode])
def test_outputs_without_a_gradient(how):
    def forward(model, batch):
        with how():
            return model(batch[0]), batch[1]

    with pytest.raises(ValueError, match=r"no gradient flows.*torch\.no_grad"):
        fisher.diagonal(nn.Linear(4, 3), [data(4)], forward=forward)
