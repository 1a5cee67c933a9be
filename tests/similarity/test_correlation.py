"""Rank correlations against scipy's coefficient and every order of the pairs."""

import itertools
import math
import warnings

import numpy as np
import pytest
from scipy.stats import spearmanr

from forgetting.similarity import correlations


def slow_p(figures, lost):
    """The share of all orders with at least that strong a correlation."""
    observed = abs(spearmanr(figures, lost).statistic)
    orders = [abs(spearmanr(order, lost).statistic) for order in itertools.permutations(figures)]
    return np.mean([value >= observed - 1e-9 for value in orders])


@pytest.mark.parametrize("seed", range(3))
def test_few_pairs_are_exact(seed):
    figures, lost = np.random.default_rng(seed).normal(size=(2, 5))
    found = correlations([{"mmd": value} for value in figures], lost)["mmd"]
    assert found.coefficient == pytest.approx(spearmanr(figures, lost).statistic, rel=1e-12)
    assert found.p_value == pytest.approx(slow_p(figures, lost), rel=1e-12)
    assert found.pairs == 5


def test_ties_share_their_rank():
    figures, lost = [1.0, 1.0, 2.0, 3.0], [0.1, 0.3, 0.3, 0.5]
    found = correlations([{"mmd": value} for value in figures], lost)["mmd"]
    assert found.coefficient == pytest.approx(spearmanr(figures, lost).statistic, rel=1e-12)


def test_three_pairs_in_order_are_no_evidence():
    found = correlations([{"mmd": 1.0}, {"mmd": 2.0}, {"mmd": 3.0}], [0.1, 0.2, 0.3])["mmd"]
    assert found == pytest.approx((1.0, 1 / 3, 3))


def test_many_pairs_are_drawn_the_same_way_each_time():
    figures, lost = np.random.default_rng(1).normal(size=(2, 30))
    pairs = [{"mmd": value} for value in figures + lost]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = correlations(pairs, lost)["mmd"]
    expected = spearmanr(figures + lost, lost)
    assert found.coefficient == pytest.approx(expected.statistic, rel=1e-12)
    assert 0 < found.p_value < 0.001
    assert abs(found.p_value - expected.pvalue) < 3e-4
    assert found == correlations(pairs, lost)["mmd"]


def test_a_measure_stands_on_the_pairs_that_have_it():
    pairs = [{"leep": -1.0, "mmd": 0.1}, {"leep": -2.0}, {"leep": -3.0, "mmd": 0.3}, {"leep": -2.5, "mmd": math.inf}]
    found = correlations(pairs, [0.0, 0.2, 0.4, 0.3])
    assert list(found) == ["leep", "mmd"]
    assert found["leep"].coefficient == pytest.approx(-1)
    assert (found["leep"].pairs, found["mmd"].pairs) == (4, 3)
    assert found["mmd"].coefficient == pytest.approx(0.5)  # ranks 1 2 3 against 1 3 2


def test_what_has_no_correlation():
    two = [{"mmd": 1.0}, {"mmd": 2.0}]
    with pytest.raises(ValueError, match="at least 3 pairs of tasks, got 2"):
        correlations(two, [0.1, 0.2])
    with pytest.raises(ValueError, match="2 mappings of measures and 3 numbers"):
        correlations(two, [0.1, 0.2, 0.3])
    with pytest.raises(ValueError, match="'mmd' was measured for 2 pairs"):
        correlations([*two, {"leep": 1.0}], [0.1, 0.2, 0.3])
    with pytest.raises(ValueError, match="the figures of 'mmd' are all 1, so they have no order"):
        correlations([{"mmd": 1.0}] * 3, [0.1, 0.2, 0.3])
    with pytest.raises(ValueError, match="numbers of forgetting beside it are all 0"):
        correlations([*two, {"mmd": 3.0}], [0.0, 0.0, 0.0])
    with pytest.raises(ValueError, match="1 of the figures of 'mmd' are not numbers"):
        correlations([*two, {"mmd": math.nan}], [0.1, 0.2, 0.3])
