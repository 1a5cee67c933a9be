"""Early stop: its standard error is that of the trace, and an estimate that stops says how precise it is."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from forgetting import fisher
from forgetting.curvature import Diagonal
from forgetting.fisher.precision import BATCHES, Precision


def batches(generator, scale=1.0, largest=12):
    """Examples' traces, exponential with mean ``scale``, in batches of all sizes."""
    while True:
        yield generator.exponential(scale, generator.integers(1, largest + 1))


def followed(values, wanted=None, least=BATCHES):
    """A precision that has seen these batches (or stopped), with the estimate and the number of batches."""
    precision, total, examples, seen = Precision(wanted, least), 0.0, 0, 0
    for batch in values:
        total, examples, seen = total + float(batch.sum()), examples + len(batch), seen + 1
        if precision.update(total, len(batch)):
            break
    return precision, total / examples, seen


def test_the_standard_error_is_the_formulas():
    generator = np.random.default_rng(0)
    values = [batch for batch, _ in zip(batches(generator), range(7), strict=False)]
    precision, mean, _ = followed(values)
    sizes = np.array([len(batch) for batch in values])
    means = np.array([batch.mean() for batch in values])
    variance = (sizes * (means - mean) ** 2).sum() / (len(values) - 1)
    assert precision.standard_error == pytest.approx(math.sqrt(variance / sizes.sum()), rel=1e-12)
    assert followed(values[:1])[0].standard_error is None
    with_constant = followed([np.full(3, 2.0), np.full(5, 2.0)])[0]
    assert with_constant.standard_error == pytest.approx(0, abs=1e-15)


def test_its_square_is_unbiased_for_examples_drawn_independently():
    generator = np.random.default_rng(1)
    squares = []
    for _ in range(2000):
        values = [generator.exponential(1.0, size) for size in (1, 12, 3, 3, 7, 5)]
        squares.append(followed(values)[0].standard_error ** 2)
    truth = 1.0 / 31
    assert abs(np.mean(squares) - truth) < 4 * np.std(squares) / math.sqrt(len(squares))
    assert np.std(squares) / math.sqrt(len(squares)) < 0.03 * truth


@pytest.mark.parametrize("wanted", [0.2, 0.05])
def test_an_interval_covers_the_truth_about_as_often_as_it_says(wanted):
    """±1.96 standard errors at the moment of stopping: below 95 %, as documented, but not far below."""
    generator = np.random.default_rng(2)
    covered, estimates = 0, []
    for _ in range(600):
        precision, estimate, seen = followed(batches(generator), wanted)
        assert seen >= BATCHES
        assert precision.standard_error <= wanted * estimate
        covered += abs(estimate - 1) <= 1.96 * precision.standard_error
        estimates.append(estimate)
    assert 0.90 <= covered / 600 <= 0.975
    assert np.std(estimates) < 1.3 * wanted
    assert abs(np.mean(estimates) - 1) < 0.1 * wanted + 4 * np.std(estimates) / math.sqrt(600)


@pytest.mark.parametrize("wanted", [0.0, -1.0, math.inf, math.nan])
def test_a_precision_out_of_range(wanted):
    with pytest.raises(ValueError, match="relative standard error above 0, such as 0.05"):
        fisher.diagonal(nn.Linear(2, 3), [], precision=wanted)


def stream(seen, count=400, size=8):
    """Batches that are counted as they are taken."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(count):
        seen.append(size)
        yield torch.randn(size, 4, generator=generator), torch.randint(3, (size,), generator=generator)


def test_an_estimate_stops_when_it_is_precise_enough():
    torch.manual_seed(0)
    model, seen = nn.Linear(4, 3), []
    whole = fisher.diagonal(model, stream([]), labels="empirical")
    part = fisher.diagonal(model, stream(seen), labels="empirical", precision=0.05)
    assert BATCHES <= len(seen) < 200
    assert part.examples == sum(seen)
    assert part.standard_error <= 0.05 * part.trace()
    assert abs(part.trace() - whole.trace()) < 3 * part.standard_error
    assert whole.standard_error is None
    same = fisher.diagonal(model, stream([]), labels="empirical", examples=sum(seen))
    assert torch.equal(part["weight"], same["weight"])


def test_data_that_end_before_say_how_precise_it_became(tmp_path):
    torch.manual_seed(0)
    with pytest.warns(UserWarning, match=r"the data ended after 160 examples"):
        found = fisher.diagonal(nn.Linear(4, 3), stream([], 20), labels="empirical", precision=1e-6)
    assert found.examples == 160
    assert found.standard_error > 1e-6 * found.trace()
    found.save(tmp_path / "m")
    assert Diagonal.load(tmp_path / "m").standard_error == found.standard_error
