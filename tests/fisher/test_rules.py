"""Every closed form, the local one, the fallback and autograd's own gradient agree, on drawn calls."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from forgetting import fisher
from forgetting.fisher import fallback
from forgetting.fisher.accumulate import Accumulator, Adapter
from forgetting.fisher.batches import default_forward
from forgetting.fisher.elementwise import Gaussian
from forgetting.fisher.labels import Labels
from forgetting.fisher.rules import base, conv, embedding, linear
from forgetting.parameters import evaluating, named
from tests.networks import Applied, raw

TOLERANCES = {torch.float64: 1e-10, torch.float32: 2e-5, torch.bfloat16: 2e-2, torch.float16: 5e-3}
DRAWN = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
DTYPES = st.sampled_from([torch.float64, torch.float32])
POWERS = st.sampled_from([1, 2])
MEMORY = st.sampled_from([1, 2**12, 2**28])


def close(found, truth, dtype):
    scale = float(truth.norm()) or 1.0
    assert float((found.double() - truth.double()).norm()) <= TOLERANCES[dtype] * scale


def drawn(seed, *shape, dtype, strided):
    """Random numbers, contiguous or as every second element of more."""
    generator = torch.Generator().manual_seed(seed)
    if not strided:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)
    return torch.randn(*shape[:-1], 2 * shape[-1], generator=generator, dtype=torch.float64).to(dtype)[..., ::2]


@DRAWN
@given(st.integers(1, 6), st.integers(1, 9), st.integers(1, 20), st.integers(1, 20), DTYPES, POWERS, st.booleans(),
       MEMORY, st.integers(0, 99))
def test_linear(n, t, i, o, dtype, power, strided, memory, seed):
    x, g = drawn(seed, n, t, i, dtype=dtype, strided=strided), drawn(seed + 1, n, t, o, dtype=dtype, strided=strided)
    total = torch.ones(o, i, dtype=dtype)
    linear.products(x, g, total, power, memory)
    truth = 1 + torch.einsum("nto,nti->noi", g.double(), x.double()).abs().pow(power).sum(0)
    close(total, truth, dtype)


def test_linear_in_parts_of_rows_and_into_a_view():
    """Larger than one part of the cache, into every second column of another tensor."""
    x, g = torch.randn(3, 5, 1100), torch.randn(3, 5, 700)
    whole = torch.zeros(700, 2200)
    linear.products(x, g, whole[:, ::2], 2, 2**28)
    close(whole[:, ::2], torch.einsum("nto,nti->noi", g.double(), x.double()).square().sum(0), torch.float32)
    assert not whole[:, 1::2].any()


@st.composite
def convolutions(draw):
    dimensions = draw(st.integers(1, 3))
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    depthwise = draw(st.booleans())
    c_in = groups * (1 if depthwise else draw(st.sampled_from([1, 2, 3, 6])))
    c_out = groups * draw(st.integers(1, 3))
    many = st.tuples(*[st.integers(1, 3)] * dimensions)
    kernel, stride, dilation = draw(many), draw(many), draw(many)
    padding = draw(st.tuples(*[st.integers(0, 2)] * dimensions))
    transposed = draw(st.booleans())
    least = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    size = [draw(st.integers(m, m + draw(st.sampled_from([2, 2, 12 if dimensions < 3 else 3])))) for m in least]
    return {"groups": groups, "c_in": c_in, "c_out": c_out, "kernel": kernel, "stride": stride, "dilation": dilation,
            "padding": padding, "size": size, "transposed": transposed, "dimensions": dimensions}


@DRAWN
@given(convolutions(), st.integers(1, 4), st.integers(1, 2), DTYPES, POWERS, MEMORY, st.booleans(), st.booleans(),
       st.integers(0, 99))
def test_conv(c, n, repeats, dtype, power, memory, last, sums_last, seed):
    x = drawn(seed, n * repeats, c["c_in"], *c["size"], dtype=dtype, strided=False)
    if last and c["dimensions"] == 2:
        x = x.to(memory_format=torch.channels_last)
    ins, outs = (c["c_in"], c["c_out"]) if c["transposed"] else (c["c_out"], c["c_in"])
    weight = drawn(seed + 1, ins, outs // c["groups"], *c["kernel"], dtype=dtype, strided=False)
    name = f"conv{'_transpose' if c['transposed'] else ''}{c['dimensions']}d"
    function = getattr(torch, name)
    settings_ = {key: c[key] for key in ("stride", "padding", "dilation", "groups")}
    weight.requires_grad_()
    try:
        y = function(x.double(), weight.double(), None, **settings_).to(dtype)
    except RuntimeError:
        return  # an output of no size, which some types' kernels let pass
    g = drawn(seed + 2, *y.shape, dtype=dtype, strided=True)
    truth = torch.zeros_like(weight, dtype=torch.float64)
    for m in range(n):
        part = slice(m * repeats, (m + 1) * repeats)
        again = function(x[part].double(), weight.double(), None, **settings_)
        (gradient,) = torch.autograd.grad(again, weight, g[part].double())
        truth += gradient.double().abs().pow(power)
    rule = conv.Conv()
    call = rule.bind(function, (x, weight, None), settings_)
    total = torch.zeros_like(weight)
    if sums_last and c["dimensions"] > 1:
        total = total.to(memory_format=torch.channels_last if c["dimensions"] == 2 else torch.channels_last_3d)
    sources, gradients = {"input": x.unflatten(0, (n, repeats))}, g.unflatten(0, (n, repeats))
    with torch.no_grad():
        rule.accumulate(sources, gradients, call, {"weight": total}, power, memory)
        close(total, truth, dtype)
        each = torch.zeros(n, *weight.shape, dtype=dtype)
        rule.add_gradients(sources, gradients, call, "weight", each)
    close(each.abs().pow(power).sum(0), truth, dtype)


@DRAWN
@given(st.integers(1, 5), st.integers(1, 7), st.integers(1, 6), st.integers(1, 5), st.booleans(), DTYPES, POWERS,
       st.integers(0, 99))
def test_embedding(n, t, rows, width, padded, dtype, power, seed):
    tokens = torch.randint(rows, (n, t), generator=torch.Generator().manual_seed(seed))
    g = drawn(seed + 1, n, t, width, dtype=dtype, strided=True)
    padding = -1 if padded else None
    total = torch.zeros(rows, width, dtype=dtype)
    embedding.products(tokens, g, total, padding, power, 2**20)
    each = torch.zeros(n, rows, width, dtype=torch.float64)
    for m in range(n):
        each[m].index_add_(0, tokens[m], g[m].double())
    if padded:
        each[:, padding] = 0
    close(total, each.abs().pow(power).sum(0), dtype)


class Everything(nn.Module):
    """Every kind of use, small."""

    def __init__(self):
        super().__init__()
        self.table, self.position, self.scale = nn.Embedding(6, 4), raw(8, 4), raw(4)
        self.norm, self.root = nn.LayerNorm(4), nn.RMSNorm(4)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.conv, self.batch, self.group = nn.Conv1d(4, 6, 3, padding=1), nn.BatchNorm1d(6), nn.GroupNorm(2, 6)
        self.prelu, self.mix, self.shared = nn.PReLU(6), raw(6, 4), nn.Linear(4, 4)

    def forward(self, tokens):
        x = self.norm(self.table(tokens) + self.position[: tokens.shape[1]]) * self.scale
        x = self.root(x + self.attention(x, x, x, need_weights=False)[0])
        x = self.shared(torch.tanh(self.shared(x)))
        y = self.prelu(self.group(self.batch(self.conv(x.transpose(1, 2)))))
        return torch.einsum("ncl,cd->nd", y, self.mix) @ self.table.weight.T


def accumulated(model, batches, power, memory=2**28):
    labels = Labels("empirical", Gaussian(), None, 0.0, torch.Generator())
    with evaluating(model):
        sums = Accumulator(Adapter(model, default_forward), named(model), labels, memory, power)
        for batch in batches:
            sums.add(batch)
    return sums


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@DRAWN
@given(st.integers(1, 5), st.integers(1, 6), st.integers(0, 99))
def test_rules_equal_the_fallback(power, dtype, examples, length, seed):
    torch.manual_seed(seed)
    model = Everything().to(dtype).eval()
    tokens, targets = torch.randint(6, (examples, length)), torch.randn(examples, 6).to(dtype)
    found = accumulated(model, [(tokens, targets)], power)
    assert not {"vmap", "loop"} & set(found.routes.values())
    live = named(model)
    cotangent = (targets - model(tokens)).detach()

    truth = fallback.by_loop(lambda batch: model(batch[0]), live, (tokens, targets), [cotangent], power)
    whole = math.sqrt(sum(float(value.norm()) ** 2 for value in truth.values()))
    for name, value in truth.items():
        error = float((found.sums[name] - value).norm())
        assert error <= 10 * TOLERANCES[dtype] * max(float(value.norm()), 1e-6 * whole), name


def test_power_one_is_the_sum_of_absolute_gradients():
    """Against the obvious loop, for MAS: not the root of the sum of squares."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    x, y = torch.randn(5, 3).double(), torch.randn(5, 2).double()
    found = accumulated(model, [(x[:2], y[:2]), (x[2:], y[2:])], 1).sums
    truth = {name: torch.zeros_like(value) for name, value in model.named_parameters()}
    for one, target in zip(x, y, strict=True):
        score = -0.5 * (target - model(one)).square().sum()
        for (name, _), gradient in zip(model.named_parameters(), torch.autograd.grad(score, list(model.parameters())),
                                       strict=True):
            truth[name] += gradient.abs()
    for name, value in truth.items():
        close(found[name], value, torch.float64)


class TestShortMemory:
    """Where an allocation fails the tile is halved; one example that does not fit is the caller's to hear of."""

    def gradients(self, fits):
        sizes = []

        def found(part):
            sizes.append(part.stop - part.start)
            if sizes[-1] > fits:
                raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")
            return torch.arange(10.0)[part].unsqueeze(1) + 1

        return sizes, found

    @pytest.mark.parametrize("power", [1, 2])
    def test_the_sum_is_the_same(self, power):
        sizes, found = self.gradients(2)
        total = torch.zeros(1)
        base.add_in_tiles(total, 10, 8, found, power)
        assert sizes[:3] == [8, 4, 2]
        assert total.item() == sum(k**power for k in range(1, 11))

    def test_one_example_too_many(self):
        with pytest.raises(RuntimeError, match="allocate memory"):
            base.add_in_tiles(torch.zeros(1), 10, 8, self.gradients(0)[1], 2)

    def test_other_errors_are_not_swallowed(self):
        def broken(part):
            raise RuntimeError("shapes do not fit")

        with pytest.raises(RuntimeError, match="shapes"):
            base.add_in_tiles(torch.zeros(1), 10, 8, broken, 2)


def test_shared_weights_under_little_memory():
    """Summed gradients of several uses, one example a tile, equal those of all at once."""
    torch.manual_seed(0)
    model = Applied(lambda m, x: m.head(torch.tanh(m.inner(torch.tanh(m.inner(x))))),
                    inner=nn.Linear(4, 4), head=nn.Linear(4, 2)).double()
    batch = torch.randn(7, 3, 4).double(), torch.randn(7, 3, 2).double()
    little, much = (accumulated(model, [batch], 2, memory).sums for memory in (1, 2**28))
    for name, value in much.items():
        close(little[name], value, torch.float64)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_small_half_precision_gradients_of_several_cotangents(dtype):
    """Where one product serves several cotangents, their squares are added up first: not in half precision."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
    with torch.no_grad():
        model[2].weight *= 1e-4
    x = torch.randn(5, 4)
    truth = fisher.diagonal(model.double(), [(x.double(), torch.zeros(5).long())])
    found = fisher.diagonal(model.to(dtype), [(x.to(dtype), torch.zeros(5).long())])
    for name, value in truth.items():
        assert float((found[name].double() - value).norm()) <= 0.1 * float(value.norm()), name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_accumulated_in_float32(dtype):
    x, g = torch.randn(4, 6, 5).to(dtype), (torch.randn(4, 6, 3) * 1e-3).to(dtype)
    rule, weight = linear.Linear(), torch.zeros(3, 5, dtype=dtype)
    total = torch.zeros(3, 5)
    rule.accumulate({"input": x.unsqueeze(1)}, g.unsqueeze(1), {"input": x, "weight": weight, "function": F.linear},
                    {"weight": total}, 2, 2**20)
    truth = torch.einsum("nto,nti->noi", g.double(), x.double()).square().sum(0)
    close(total, truth, torch.float32)


def test_sums_of_kernels_lie_as_they_are_used():
    class Kernels(nn.Module):
        def __init__(self):
            super().__init__()
            self.viewed, self.conv = raw(6, 4, 3, 3), nn.Conv2d(4, 5, 3)

        def forward(self, x):
            pooled = nn.functional.linear(x[..., :3, :3].flatten(1), self.viewed.flatten(1))
            return pooled + self.conv(x).mean((1, 2, 3)).unsqueeze(1)

    model = Kernels().float()
    found = accumulated(model, [(torch.randn(3, 4, 5, 5), torch.randn(3, 6))], 2)
    assert found.sums["viewed"].stride() == model.viewed.stride()  # a view of the weight is one of its sum
    assert found.sums["conv.weight"].is_contiguous(memory_format=torch.channels_last)
    assert set(found.routes.values()) == {"linear", "conv"}
