"""Every row of tests/cases.py, every kind of label, every batch size: the library equals the float64 oracle."""

import pytest
import torch

from tests.cases import CASES, COUNT, cut
from tests.fisher.estimates import (
    FLOAT32,
    FLOAT32_LOOPS,
    FLOAT64,
    SIZES,
    assert_close,
    errors,
    estimate,
    reference,
    require,
)

ROWS = pytest.mark.parametrize("name", CASES)
LABELS = pytest.mark.parametrize("labels", ["exact", "sampled", "empirical"])


def test_no_row_is_left_out():
    assert len(CASES) == COUNT


@ROWS
@LABELS
@pytest.mark.parametrize("size", SIZES)
def test_float64_equals_the_oracle(name, labels, size):
    require(CASES[name])
    found = estimate(CASES[name], labels, size, torch.float64)
    assert_close(found, reference(name, labels, torch.float64), FLOAT64)
    assert set(found.routes) == set(found)


@ROWS
@LABELS
@pytest.mark.parametrize("size", SIZES)
def test_float32_is_as_good_as_a_loop_over_examples(name, labels, size):
    require(CASES[name])
    truth = reference(name, labels, torch.float64)
    loop = errors(reference(name, labels, torch.float32), truth)
    found = errors(estimate(CASES[name], labels, size, torch.float32), truth)
    allowed = {key: max(FLOAT32, FLOAT32_LOOPS * error) for key, error in loop.items()}
    wrong = {key: (error, loop[key]) for key, error in found.items() if not error <= allowed[key]}
    assert not wrong, f"(error, error of the loop): {wrong}"


@ROWS
@pytest.mark.parametrize("size", SIZES)
def test_batched_squares_the_mean_of_each_batch(name, size):
    require(CASES[name])
    found = estimate(CASES[name], "batched", size, torch.float64)
    assert_close(found, reference(name, "batched", torch.float64, size), FLOAT64)


@ROWS
def test_rows_are_worth_their_place(name):
    require(CASES[name])
    model, batch = CASES[name].build()
    again, _ = CASES[name].build()
    assert len(cut(batch, 7)[-1]) > 0
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    exact, empirical = (reference(name, labels, torch.float64) for labels in ("exact", "empirical"))
    assert any(not torch.allclose(exact[key], empirical[key], rtol=1e-2) for key in exact)
