"""Tests of differences against enumeration by hand and against scipy's own permutation test."""

import itertools

import numpy as np
import pytest
from scipy import stats

from forgetting.protocol import statistics

DIFFERENCES = [0.3, -0.1, 0.4, 0.2, 0.5, -0.05]


def enumerated(differences):
    """Every sign pattern, one after the other."""
    observed = abs(sum(differences))
    patterns = list(itertools.product([1, -1], repeat=len(differences)))
    hits = sum(abs(sum(sign * d for sign, d in zip(signs, differences, strict=True))) >= observed - 1e-12
               for signs in patterns)
    return hits / len(patterns)


def scipys(differences):
    """scipy's exact paired permutation test."""
    zeros = np.zeros(len(differences))
    return stats.permutation_test((np.array(differences), zeros), lambda a, b: np.mean(a - b),
                                  permutation_type="samples", n_resamples=np.inf).pvalue


@pytest.mark.parametrize(
    "differences",
    [DIFFERENCES, [1.0], [1.0, 2.0, 3.0], [0.1, 0.1, 0.1, 0.1], [0.0, 0.2, 0.3, 0.0], [0.3, -0.3],
     list(np.random.default_rng(0).normal(0.4, 1, 10))],
)
def test_sign_flips_are_all_tried(differences):
    assert statistics.sign_flip(differences) == pytest.approx(enumerated(differences), abs=1e-15)
    if len(differences) > 1:  # scipy refuses one pair
        assert statistics.sign_flip(differences) == pytest.approx(scipys(differences), abs=1e-15)


def test_the_least_p_is_two_patterns():
    assert statistics.sign_flip([0.1] * 8) == 2 / 2**8
    assert statistics.sign_flip([0.3, 0.1, 0.2]) == 2 / 2**3
    assert statistics.sign_flip([0.1] * 16) == 2 / 2**16


def test_the_sign_of_the_difference_does_not_matter():
    assert statistics.sign_flip(DIFFERENCES) == statistics.sign_flip([-d for d in DIFFERENCES])


def test_no_difference_is_no_evidence():
    assert statistics.sign_flip([0.0, 0.0, 0.0]) == 1
    assert statistics.wilcoxon([0.0, 0.0, 0.0]) == 1
    assert statistics.sign_flip([0.7]) == statistics.wilcoxon([0.7]) == 1


def test_beyond_16_patterns_are_drawn_by_an_own_generator():
    differences = np.random.default_rng(1).normal(0.35, 1, 20)
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    p = statistics.sign_flip(differences)
    assert p == statistics.sign_flip(differences)
    assert np.array_equal(state, np.random.get_state()[1])  # noqa: NPY002
    values, observed = np.array([1.0, -1.0]), abs(differences.sum())
    halves = [np.array(list(itertools.product(values, repeat=10))) @ half for half in np.split(differences, 2)]
    exact = (np.abs(halves[0][:, None] + halves[1][None]) >= observed - 1e-12).mean()  # all 2²⁰ of them
    assert p == pytest.approx(exact, abs=4 * np.sqrt(exact / 100_000))
    assert p != statistics.sign_flip(differences, seed=1)
    assert statistics.sign_flip([0.1] * 20, draws=999) == 1 / 1000  # never 0


def test_wilcoxon_by_hand():
    # Ranks of |d|: .05→1, .1→2, .2→3, .3→4, .4→5, .5→6; W− = 2 + 1 = 3. Sums of ranks ≤ 3 among the subsets of 1…6:
    # {}, {1}, {2}, {3}, {1,2}: 5 of 64, two-sided 10/64.
    assert statistics.wilcoxon(DIFFERENCES) == pytest.approx(10 / 64, abs=1e-15)
    assert statistics.wilcoxon([*DIFFERENCES, 0.0]) == pytest.approx(10 / 64, abs=1e-15)


def test_holm_by_hand():
    # Sorted .01 .02 .03 .20 -> 4·.01 = .04, 3·.02 = .06, 2·.03 = .06, 1·.20 = .20
    corrected = statistics.holm({"d": 0.20, "b": 0.02, "a": 0.01, "c": 0.03})
    assert corrected == pytest.approx({"d": 0.20, "b": 0.06, "a": 0.04, "c": 0.06}, abs=1e-15)
    assert list(corrected) == ["d", "b", "a", "c"]
    # 3·.01 = .03; 2·.012 = .024, lifted to .03
    assert statistics.holm({"a": 0.01, "b": 0.012, "c": 0.9}) == pytest.approx({"a": 0.03, "b": 0.03, "c": 0.9})
    assert statistics.holm({"a": 0.6, "b": 0.7}) == {"a": 1.0, "b": 1.0}
    assert statistics.holm({}) == {}


def test_summary_by_hand():
    # Mean 2.5, variance (2.25 + .25 + .25 + 2.25)/3 = 5/3, sem = sqrt(5/3/4)
    mean, sem, n = statistics.summary([1.0, 2.0, 3.0, 4.0])
    assert (mean, n) == (2.5, 4)
    assert sem == pytest.approx(np.sqrt(5 / 12), abs=1e-15)
    assert statistics.summary([0.7]) == (0.7, None, 1)


@pytest.mark.parametrize("call", [statistics.sign_flip, statistics.wilcoxon, statistics.summary])
def test_bad_input(call):
    with pytest.raises(ValueError, match="at least one number"):
        call([])
    with pytest.raises(ValueError, match="must be finite"):
        call([0.1, float("nan")])


def test_a_p_value_is_a_probability():
    with pytest.raises(ValueError, match="'ewc' is 1.5"):
        statistics.holm({"ewc": 1.5})


def every_sign(differences, statistic):
    """The exact p-value of integer differences, in integers."""
    patterns = list(itertools.product((-1, 1), repeat=len(differences)))
    observed = abs(statistic(differences))
    return sum(abs(statistic([s * d for s, d in zip(signs, differences, strict=True)])) >= observed
               for signs in patterns) / len(patterns)


@pytest.mark.parametrize("counts", [(1, 1, -1, 1, 1, 2), (1, -1, -1, 0, 0, 1), (0, 2, 6, -3, -3, -3, 1),
                                    (3, -3, 3, 5, 5, -1, 2, 2), (4, 4, 4, -4, 1, 7, -7)])
@pytest.mark.parametrize("base", [0.0, 0.37, 0.905])
def test_ties_of_accuracies_are_ties_whatever_their_last_bits(counts, base):
    """Accuracies are k/539; two differences of equal counts differ in floating point."""
    start = round(base * 539)
    differences = [(start + count) / 539 - start / 539 for count in counts]
    assert statistics.sign_flip(differences) == every_sign(counts, sum)
    nonzero = [count for count in counts if count]
    ranks = [int(2 * rank) for rank in stats.rankdata(np.abs(nonzero))]
    signed = [int(np.sign(count)) * rank for count, rank in zip(nonzero, ranks, strict=True)]
    assert statistics.wilcoxon(differences) == every_sign(signed, sum)


def test_differences_that_are_rounding_are_none():
    assert statistics.wilcoxon([1.1e-16, -2.2e-16, 1.1e-16]) == 1.0
