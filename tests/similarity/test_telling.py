"""The proxy A-distance: known errors, chance, unequal sizes, and the regression against its own optimality."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import norm

from forgetting.similarity import proxy_a_distance
from forgetting.similarity.telling import _logistic


def drawn(n, d, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_it_approaches_what_the_best_linear_classifier_reaches():
    """Two normal distributions at distance 2: the best error is Φ(−1)."""
    shift = torch.tensor([2.0, 0.0, 0.0])
    found = proxy_a_distance(drawn(3000, 3), drawn(3000, 3, 1) + shift)
    assert found == pytest.approx(2 * (1 - 2 * norm.cdf(-1)), abs=0.05)


def test_the_ends_of_its_range():
    assert proxy_a_distance(drawn(40, 3), drawn(40, 3, 1) + 50) == 2
    same = [proxy_a_distance(drawn(100, 3, seed), drawn(100, 3, seed + 50)) for seed in range(20)]
    assert abs(np.mean(same)) < 0.15
    assert proxy_a_distance(torch.ones(10, 2), torch.ones(10, 2)) == 0  # nothing to go by


def test_unequal_sizes_are_no_easier():
    found = proxy_a_distance(drawn(2000, 2), drawn(40, 2, 1))
    assert abs(found) < 0.6  # guessing "the first" would be right in 98 of 100


def test_the_held_out_half_counts():
    """As many features as examples: what is learned by heart tells nothing."""
    found = [proxy_a_distance(drawn(20, 60, seed), drawn(20, 60, seed + 50)) for seed in range(20)]
    assert abs(np.mean(found)) < 0.4


def test_units_and_places_do_not_matter():
    x, y = drawn(60, 3), drawn(60, 3, 1) + 1
    scale = torch.tensor([1e-3, 1.0, 1e4])
    assert proxy_a_distance(scale * x + 1e5, scale * y + 1e5) == pytest.approx(proxy_a_distance(x, y), abs=1e-9)


def test_the_regression_is_the_minimum():
    one, other = drawn(30, 4).numpy(), drawn(20, 4, 1).numpy() + 0.5

    def loss(weights, bias):
        scores = [np.log1p(np.exp(-(row @ weights + bias))) for row in one], \
                 [np.log1p(np.exp(row @ weights + bias)) for row in other]
        return np.mean(scores[0]) / 2 + np.mean(scores[1]) / 2 + weights @ weights / 2 / 50

    weights, bias = _logistic(one, other)
    best = loss(weights, bias)
    for step in np.eye(5) * 1e-3:
        for sign in (-1, 1):
            assert loss(weights + sign * step[:4], bias + sign * step[4]) > best


def test_it_draws_from_its_own_generator():
    x, y = drawn(20, 3), drawn(20, 3, 1) + 0.5
    before = torch.random.get_rng_state()
    first = proxy_a_distance(x, y)
    assert first == proxy_a_distance(x, y)
    others = {proxy_a_distance(x, y, generator=torch.Generator().manual_seed(seed)) for seed in range(1, 6)}
    assert len(others) > 1
    assert torch.equal(before, torch.random.get_rng_state())


def test_two_examples_of_each_are_enough():
    assert math.isfinite(proxy_a_distance(drawn(2, 3), drawn(2, 3, 1)))
