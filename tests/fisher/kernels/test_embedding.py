"""The embedding kernel against a sum an example at a time, in float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from forgetting.fisher.rules import embedding as rule
from tests.interpreter import TOLERANCE, error, run

pytest.importorskip("triton", reason="Triton is not installed")

MEMORY = 2**20
PRODUCTS = "forgetting.fisher.kernels.embedding.products"
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def expected(tokens, g, rows, padding_idx, power):
    """Σₙ |Σ of the gradients where example n has the token|^power."""
    total = torch.zeros(rows, g.shape[2], dtype=torch.float64)
    for row in range(rows):
        if padding_idx is None or row != padding_idx % rows:
            for line, gradient in zip(tokens, g.double(), strict=True):
                total[row] += gradient[line == row].sum(0).abs() ** power
    return total


def drawn(examples, positions, width, rows, dtype=torch.float32, seed=0):
    """tokens, g and a total that is not empty."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(rows, (examples, positions), generator=generator)
    return (tokens, torch.randn(examples, positions, width, generator=generator).to(dtype),
            torch.rand(rows, width, generator=generator))


@settings(max_examples=30)
@given(examples=st.integers(1, 4), positions=st.integers(1, 30), width=st.integers(1, 140), rows=st.integers(1, 7),
       dtype=st.sampled_from(DTYPES), power=st.sampled_from([1, 2]), padding=st.integers(-7, 7),
       padded=st.booleans(), memory=st.sampled_from([0, 2000, MEMORY]), turned=st.booleans(), seed=st.integers(0, 99))
def test_it_equals_the_sum_and_the_rule(
        examples, positions, width, rows, dtype, power, padding, padded, memory, turned, seed):
    tokens, g, total = drawn(examples, positions, width, rows, dtype, seed)
    if turned:
        g, total = g.transpose(0, 1).contiguous().transpose(0, 1), total.T.contiguous().T
    row = min(max(padding, -rows), rows - 1) if padded else None
    true = total + expected(tokens, g, rows, row, power)
    found = run(PRODUCTS, tokens, g, total, row, power, memory)[3]
    assert error(found, true) < TOLERANCE[dtype]
    rule.products(tokens, g.float(), total, row, power, memory)
    assert error(total, true) < TOLERANCE[torch.float32]


def test_the_padding_row_is_not_touched():
    tokens, g, total = drawn(3, 10, 8, 4)
    assert torch.equal(run(PRODUCTS, tokens, g, total, 2, 2, MEMORY)[3][2], total[2])
    tokens = torch.full_like(tokens, 2)
    assert torch.equal(run(PRODUCTS, tokens, g, total, 2, 2, MEMORY)[3], total)


@pytest.mark.parametrize("positions", [100, 4])
def test_long_and_short_segments(positions):
    tokens, g, total = drawn(2, positions, 20, 1)
    true = total + expected(tokens, g, 1, None, 2)
    assert error(run(PRODUCTS, tokens, g, total, None, 2, MEMORY)[3], true) < TOLERANCE[g.dtype]


def test_tokens_may_be_32_bits_and_many():
    tokens, g, total = drawn(3, 6, 4, 3)
    true = total + expected(tokens, g, 3, None, 2)
    assert error(run(PRODUCTS, tokens.int(), g, total, None, 2, MEMORY)[3], true) < TOLERANCE[g.dtype]


def test_the_same_call_gives_the_same_bits():
    tokens, g, total = drawn(4, 25, 20, 5, torch.bfloat16)
    first, again = (run(PRODUCTS, tokens, g, total, None, 2, MEMORY)[3] for _ in range(2))
    assert torch.equal(first, again)


@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 0, 4), (2, 3, 0)])
def test_nothing_adds_nothing(shape):
    tokens, g, total = drawn(*shape, 5)
    assert torch.equal(run(PRODUCTS, tokens, g, total, None, 2, MEMORY)[3], total)
