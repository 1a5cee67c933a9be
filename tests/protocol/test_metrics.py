"""Every figure against numbers worked out by hand."""

import numpy as np
import pytest

from forgetting.protocol import metrics

# Rows 0…3, columns 1…3.
R = np.array([
    [0.30, 0.20, 0.10],
    [0.90, 0.25, 0.15],
    [0.60, 0.80, 0.35],
    [0.50, 0.70, 0.95],
])
JOINT = np.array([
    [0.30, 0.20, 0.10],
    [0.90, 0.25, 0.15],
    [0.95, 0.90, 0.35],
    [0.92, 0.88, 0.97],
])


@pytest.mark.parametrize(
    ("figure", "by_hand"),
    [
        (metrics.average_accuracy, (0.50 + 0.70 + 0.95) / 3),
        (metrics.backward_transfer, ((0.50 - 0.90) + (0.70 - 0.80)) / 2),
        (metrics.forward_transfer, ((0.25 - 0.20) + (0.35 - 0.10)) / 2),
        (metrics.forgetting, ((0.90 - 0.50) + (0.80 - 0.70)) / 2),
        (metrics.learning_accuracy, (0.90 + 0.80 + 0.95) / 3),
        (metrics.retention, 0.50 / 0.90),
    ],
)
def test_by_hand(figure, by_hand):
    assert figure(R) == pytest.approx(by_hand, abs=1e-15)
    assert isinstance(figure(R), float)


def test_against_another_matrix_by_hand():
    assert metrics.intransigence(R, JOINT) == pytest.approx(0.97 - 0.95, abs=1e-15)
    assert metrics.adaptation(R, JOINT) == pytest.approx((0.80 / 0.90 + 0.95 / 0.97) / 2, abs=1e-15)
    assert metrics.adaptation(R, R) == 1


def test_forgetting_takes_the_best_row_not_the_diagonal_and_never_row_0():
    later = R.copy()
    later[2, 0] = 0.97  # the source got better while task 2 was learned
    assert metrics.forgetting(later) == pytest.approx(((0.97 - 0.50) + (0.80 - 0.70)) / 2, abs=1e-15)
    assert metrics.backward_transfer(later) == metrics.backward_transfer(R)
    given = R.copy()
    given[0] = 1.0
    assert metrics.forgetting(given) == metrics.forgetting(R)


def test_forgetting_is_negative_where_all_got_better():
    better = np.array([[0.1, 0.1], [0.5, 0.2], [0.8, 0.9]])
    assert metrics.forgetting(better) == pytest.approx(-0.3, abs=1e-15)


def test_only_the_source_takes_part_in_retention():
    changed = R.copy()
    changed[:, 1:] = 0.123
    assert metrics.retention(changed) == metrics.retention(R)
    assert metrics.retention([[0.0], [0.5]]) == 1


def test_negative_flips_by_hand():
    before = np.array([True, True, True, False, False])
    after = np.array([True, False, False, False, True])
    assert metrics.negative_flips(before, after) == 2 / 5
    assert metrics.negative_flips(after, before) == 1 / 5


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: metrics.average_accuracy(np.ones((3, 3))), r"\[N \+ 1, N\], row 0 .* got \(3, 3\)"),
        (lambda: metrics.forgetting([[0.1], [0.9]]), "at least 2 tasks, the matrix has 1"),
        (lambda: metrics.average_accuracy([[0.1], [np.nan]]), "not finite"),
        (lambda: metrics.retention([[0.1], [0.0]]), "source accuracy is 0"),
        (lambda: metrics.adaptation(R, np.zeros((4, 3))), "accuracy 0 on task 2"),
        (lambda: metrics.adaptation(R, [[0.1, 0.1], [0.5, 0.2], [0.8, 0.9]]), "different sequences"),
        (lambda: metrics.intransigence(R, [[0.1], [0.5]]), "different sequences"),
        (lambda: metrics.negative_flips([True], [True, False]), "same examples"),
        (lambda: metrics.negative_flips([1, 0], [1, 1]), "bool vectors"),
        (lambda: metrics.negative_flips(np.zeros(0, bool), np.zeros(0, bool)), "no examples"),
    ],
)
def test_bad_input(call, words):
    with pytest.raises(ValueError, match=words):
        call()
