"""MMD and the Fréchet distance against loops and a matrix root; samples of one distribution; hard numbers."""

import itertools
import math
import statistics

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from forgetting.similarity import frechet, mmd


def drawn(n, d, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def slow_mmd(x, y, bandwidth=None):
    """Lemma 6 of the paper, kernel by kernel."""
    def distance(a, b):
        return math.sqrt(sum((float(p) - float(q)) ** 2 for p, q in zip(a, b, strict=True)))

    if bandwidth is None:
        bandwidth = statistics.median_low(distance(a, b) for a, b in itertools.combinations([*x, *y], 2))

    def kernel(a, b):
        return math.exp(-(distance(a, b) ** 2) / (2 * bandwidth**2))

    m, n = len(x), len(y)
    first = sum(kernel(a, b) for a, b in itertools.permutations(x, 2)) / (m * (m - 1))
    second = sum(kernel(a, b) for a, b in itertools.permutations(y, 2)) / (n * (n - 1))
    return first + second - 2 * sum(kernel(a, b) for a in x for b in y) / (m * n)


def slow_frechet(x, y):
    """Means, numpy's covariances, scipy's root of a matrix."""
    x, y = x.double().numpy(), y.double().numpy()
    one, other = (np.atleast_2d(np.cov(sample, rowvar=False)) for sample in (x, y))
    root = sqrtm(one @ other).real
    return float(((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(one + other - 2 * root))


@pytest.mark.parametrize(("m", "n", "d"), [(12, 9, 3), (6, 11, 20), (2, 2, 1), (5, 8, 1)])
def test_mmd_is_its_formula(m, n, d):
    x, y = drawn(m, d), 1.5 * drawn(n, d, 1) + 0.5
    assert mmd(x, y) == pytest.approx(slow_mmd(x, y), rel=1e-10, abs=1e-13)
    assert mmd(x, y, bandwidth=0.7) == pytest.approx(slow_mmd(x, y, 0.7), rel=1e-10, abs=1e-13)
    assert mmd(x, y) == pytest.approx(mmd(y, x), rel=1e-12, abs=1e-14)


def test_mmd_of_one_sample_split_is_about_zero_and_of_two_it_is_not():
    sample = drawn(2000, 3)
    splits = [mmd(part[:50], part[50:]) for part in sample.split(100)]
    assert abs(sum(splits) / 20) < 0.005
    assert min(splits) < 0 < max(splits)
    assert min(mmd(part[:50], part[50:] + 1) for part in sample.split(100)) > 0.05


def test_mmd_of_tight_samples_far_apart_is_what_its_page_says():
    x = 1e-3 * drawn(20, 2)
    assert mmd(x, x + 5) == pytest.approx(2 - 2 * math.exp(-0.5), rel=1e-2)
    assert mmd(x, x + 5, bandwidth=1.0) < mmd(x, x + 6, bandwidth=1.0) == pytest.approx(2, rel=1e-3)


def test_mmd_refuses_a_scale_of_zero():
    x = torch.zeros(6, 2)
    with pytest.raises(ValueError, match="median distance between two examples is 0"):
        mmd(x, torch.cat([x, x + 1]))
    with pytest.raises(ValueError, match="bandwidth= must be a positive distance, got -1"):
        mmd(drawn(4, 2), drawn(4, 2), bandwidth=-1)


@pytest.mark.parametrize(("m", "n", "d"), [(40, 30, 4), (30, 40, 1)])
def test_frechet_is_its_formula(m, n, d):
    x = drawn(m, d) @ drawn(d, d, 5) + 2
    y = drawn(n, d, 1) @ drawn(d, d, 6) - 1
    assert frechet(x, y) == pytest.approx(slow_frechet(x, y), rel=1e-9)
    assert frechet(x, y) == pytest.approx(frechet(y, x), rel=1e-12)


def test_frechet_between_gaussians_in_closed_form():
    """Commuting covariances: Σ (σ₁ − σ₂)² and the means."""
    base = drawn(200, 3)
    white = torch.linalg.qr(base - base.mean(0))[0] * 199**0.5
    one, other = torch.tensor([1.0, 2.0, 0.0]), torch.tensor([3.0, 2.0, 1.0])
    assert frechet(white * one, white * other + 2) == pytest.approx(4 + 0 + 1 + 12, rel=1e-12)


def test_frechet_of_few_examples_and_of_low_rank():
    x, y = drawn(6, 10), drawn(8, 10, 1) + 1
    one, other = (value.double().numpy() for value in (x, y))
    centred = [(s - s.mean(0)) / math.sqrt(len(s) - 1) for s in (one, other)]
    expected = 10 * 0 + ((one.mean(0) - other.mean(0)) ** 2).sum() + sum((c**2).sum() for c in centred)
    expected -= 2 * np.linalg.svd(centred[0] @ centred[1].T, compute_uv=False).sum()
    assert frechet(x, y) == pytest.approx(expected, rel=1e-10)
    low = drawn(50, 2) @ drawn(2, 6, 3)
    assert frechet(low, 2 * low) == pytest.approx(
        float((low.mean(0)).square().sum() + (low - low.mean(0)).square().sum() / 49), rel=1e-10)


@pytest.mark.parametrize("shape", [(30, 4), (5, 9)])
def test_frechet_of_identical_features_is_zero(shape):
    x = drawn(*shape) @ drawn(shape[1], shape[1], 4)
    assert frechet(x, x) == pytest.approx(0, abs=1e-11)
    assert frechet(x, x.flip(0)) == pytest.approx(0, abs=1e-11)
    assert frechet(x, x) >= 0


def test_float32_far_from_zero():
    x, y = drawn(40, 4), drawn(40, 4, 1) + 1
    far = (x + 1e4).float(), (y + 1e4).float()
    assert frechet(*far) == pytest.approx(frechet(x, y), rel=1e-2)
    assert mmd(*far) == pytest.approx(mmd(x, y), rel=1e-2)
    assert mmd(*far) == pytest.approx(slow_mmd(*far), rel=1e-7)
    assert frechet(*far) == pytest.approx(frechet(*(value.double() for value in far)), rel=1e-12)


@pytest.mark.parametrize("distance", [mmd, frechet])
def test_other_widths_are_refused(distance):
    with pytest.raises(ValueError, match="2 and 3 features; take both from the same module"):
        distance(drawn(5, 2), drawn(5, 3))
