"""The penalty's kernel against ½ Σ F(θ−θ*)² and its gradient as they are written, in float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.interpreter import STORED, TOLERANCE, error, run

kernels = pytest.importorskip("forgetting.regularizers.kernels", reason="Triton is not installed", exc_type=ImportError)

QUADRATIC = "forgetting.regularizers.kernels.quadratic"
PLAIN = [torch.float32, torch.float16, torch.bfloat16]
STRENGTH = 0.3
WHOLE = kernels.LINES * kernels.GROUP


def channels_last(size):
    """A weight of a convolution in the order of its channels."""
    return torch.randn(2, 3, 1 + size % 3, 4).to(memory_format=torch.channels_last)


SHAPES = {
    "vector": torch.randn,
    "several blocks": lambda size: torch.randn(WHOLE + size),
    "whole blocks": lambda size: torch.randn(2 * WHOLE),
    "scalar": lambda size: torch.randn(()),
    "transposed": lambda size: torch.randn(size, 3).T,
    "gaps": lambda size: torch.randn(size, 6)[:, ::2],
    "gaps, transposed": lambda size: torch.randn(6, size).T[:, ::2],
    "misaligned": lambda size: torch.randn(size + 1)[1:],
    "channels last": channels_last,
    "empty": lambda size: torch.randn(0, size),
}


def dense(weight):
    """Whether its numbers fill a piece of memory."""
    return weight.stride() == torch.empty_like(weight).stride()


def like(weight, dtype):
    """A tensor in the order of the weight's numbers: as they lie in memory where they fill it, else row by row."""
    return torch.empty_like(weight, dtype=dtype) if dense(weight) else torch.empty(weight.shape, dtype=dtype)


def order(weight):
    """The weight's numbers in that order."""
    return weight.as_strided((weight.numel(),), (1,)) if dense(weight) else weight.contiguous().view(-1)


def groups(weight):
    """In memory's order, a row a group of 128, filled up with 0, in float64."""
    return torch.nn.functional.pad(order(weight).double(), (0, -weight.numel() % kernels.GROUP)).view(-1, kernels.GROUP)


def as_lies(rows, weight):
    """What ``groups`` made of a tensor, back in the weight's shape."""
    result = like(weight, torch.float64)
    order(result).copy_(rows.flatten()[: weight.numel()])
    return result


def importance_in_8_bits(values):
    """Its code, and what it stands for."""
    rows = groups(values)
    scales = (rows.amax(1, keepdim=True) / 2**20).clamp(min=1e-37).float()
    codes = torch.log1p(rows / scales).div(kernels.RATE).round().clamp(0, 255)
    stands_for = as_lies(scales * torch.expm1(codes * kernels.RATE), values)
    return kernels.Coded(codes.to(torch.uint8).flatten()[: values.numel()].clone(), scales.flatten()), stands_for


def anchor_in_16_bits(anchor, weight):
    """Its code, and how far the weight is away from the code's cell."""
    rows = groups(anchor)
    scales = (rows.abs().amax(1, keepdim=True) / 32767).clamp(min=2.0**-96).float()
    codes = (rows / scales).round()
    units = groups(weight) / scales - codes
    away = as_lies((units - units.clamp(-kernels.CELL, kernels.CELL)) * scales, weight)
    return kernels.Coded(codes.to(torch.int16).flatten()[: weight.numel()].clone(), scales.flatten()), away


def drawn(weight, stored, generator):
    """An anchor and an importance as they are stored, and what they stand for: θ−θ* and F."""
    anchor, importance = (like(weight, torch.float32).normal_(generator=generator) for _ in range(2))
    importance.abs_()
    order(importance)[: weight.numel() // 2] = 0
    if stored is None:
        (coded, away), (codes, full) = anchor_in_16_bits(anchor, weight), importance_in_8_bits(importance)
        return coded, codes, away, full
    anchor, importance = anchor.to(stored), importance.to(stored)
    return anchor, importance, weight.double() - anchor.double(), importance.double()


def check(weights, stored, into, turned, seed):
    """Value and gradient of a penalty on these weights; ``turned``: gradients row by row, however the weights lie."""
    generator = torch.Generator().manual_seed(1000 + seed)
    anchors, importances, aways, full = (list(column) for column in zip(
        *(drawn(weight, stored, generator) for weight in weights), strict=True))
    gradients = into and [torch.randn_like(weight, dtype=into) for weight in weights]
    if into and turned:
        gradients = [gradient.contiguous() for gradient in gradients]
    value, *_, changed, _ = run(QUADRATIC, weights, anchors, importances, gradients, STRENGTH)
    true = sum((f * away * away).sum() for f, away in zip(full, aways, strict=True)) / 2
    assert error(value, true) < TOLERANCE[torch.float32]
    if into is not None:
        for before, after, f, away in zip(gradients, changed, full, aways, strict=True):
            assert after.stride() == before.stride()
            assert error(after, before.double() + STRENGTH * f * away) < STORED[into]


@settings(max_examples=25)
@given(shapes=st.lists(st.sampled_from(list(SHAPES)), min_size=1, max_size=4), size=st.integers(1, 300),
       dtypes=st.lists(st.sampled_from(PLAIN), min_size=4, max_size=4), into=st.sampled_from([*PLAIN, None]),
       stored=st.sampled_from(PLAIN), turned=st.booleans(), seed=st.integers(0, 99))
def test_value_and_gradient(shapes, size, dtypes, into, stored, turned, seed):
    torch.manual_seed(seed)
    weights = [SHAPES[shape](size).to(dtype) for shape, dtype in zip(shapes, dtypes, strict=False)]
    check(weights, stored, into, turned, seed)


@settings(max_examples=15)
@given(shape=st.sampled_from(sorted(set(SHAPES) - {"scalar", "empty", "channels last"})), size=st.integers(100, 300),
       dtype=st.sampled_from(PLAIN), into=st.sampled_from([*PLAIN, None]), seed=st.integers(0, 99))
def test_in_codes(shape, size, dtype, into, seed):
    torch.manual_seed(seed)
    check([SHAPES[shape](size).to(dtype)], None, into, False, seed)


def test_where_nothing_matters_the_value_is_zero_and_the_gradient_stays():
    weight, gradient = torch.randn(200), torch.randn(200)
    coded = kernels.Coded(torch.zeros(200, dtype=torch.uint8), torch.ones(2))
    value, *_, after, _ = run(QUADRATIC, [weight], [torch.zeros(200)], [coded], [gradient], STRENGTH)
    assert value == 0
    assert torch.equal(after[0], gradient)


def test_a_weight_in_its_anchor_s_cell_is_not_pulled():
    weight = torch.randn(300)
    coded, _ = anchor_in_16_bits(weight, weight)
    assert run(QUADRATIC, [weight], [coded], [torch.ones(300)])[0] == 0


def test_without_parameters_it_is_zero():
    assert run(QUADRATIC, [], [], [])[0] == 0


def test_the_same_call_gives_the_same_bits():
    weights = [torch.randn(3 * WHOLE), torch.randn(50)]
    stored = [torch.rand_like(weight) for weight in weights]
    assert run(QUADRATIC, weights, stored, stored)[0] == run(QUADRATIC, weights, stored, stored)[0]


@pytest.mark.parametrize("stored", [
    torch.zeros(3, 4), torch.zeros(12, dtype=torch.float64), kernels.Coded(torch.zeros(12), torch.zeros(1)),
    kernels.Coded(torch.zeros(12, dtype=torch.uint8), torch.zeros(2)),
])
def test_what_does_not_fit_is_refused(stored):
    weight = torch.zeros(12)
    with pytest.raises(ValueError, match="importance.*for a weight torch.float32 \\(12,\\).*a float32 scale a group"):
        kernels.quadratic([weight], [weight], [stored])
