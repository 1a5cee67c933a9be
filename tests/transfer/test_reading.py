"""Verdicts, labels saved and time to an accuracy, on made-up runs with figures worked out by hand."""

import math

import pytest

from forgetting.transfer import accuracy, difference, labels_saved, time_to
from forgetting.transfer.reading import first
from tests.transfer.made import run, runs

CURVE = {("scratch", 0.01): [0.2], ("scratch", 0.1): [0.4], ("scratch", 1.0): [0.8]}


def test_an_interval_is_students():
    found = accuracy(runs({("scratch", 0.1): [0.4, 0.5, 0.6]}), "scratch", 0.1)
    half = 4.302652729749464 * 0.1 / math.sqrt(3)  # t at 2 degrees of freedom
    assert found.n == 3
    assert found.mean == pytest.approx(0.5)
    assert (found.low, found.high) == pytest.approx((0.5 - half, 0.5 + half))


def test_one_seed_has_no_interval_and_decides_nothing():
    found = difference(runs({("finetune", 0.1): [0.9], ("scratch", 0.1): [0.1]}), 0.1)
    assert found.estimate.low is None
    assert found.verdict == "not decided at 1 seed"


@pytest.mark.parametrize(
    ("ours", "verdict"),
    [([0.60, 0.71, 0.82], "transfer pays"), ([0.40, 0.51, 0.62], "negative transfer"),
     ([0.55, 0.55, 0.75], "not decided at 3 seeds")],
)
def test_the_verdict_on_transfer_is_paired_by_seed(ours, verdict):
    # Unpaired, seeds differ by 0.2 and nothing would be decided; the pairs differ by 0.1 ± 0.01.
    found = runs({("finetune", 0.1): ours, ("scratch", 0.1): [0.5, 0.6, 0.7]})
    assert difference(found, 0.1).verdict == verdict
    assert difference(list(reversed(found)), 0.1).verdict == verdict


@pytest.mark.parametrize(("ours", "verdict"),
                         [([0.6, 0.71], "finetune is better"), ([0.4, 0.51], "linear-probe is better")])
def test_against_the_probe_the_better_arm_is_named(ours, verdict):
    found = runs({("finetune", 1.0): ours, ("linear-probe", 1.0): [0.5, 0.6]})
    assert difference(found, 1.0, other="linear-probe").verdict == verdict


def test_pairs_need_the_same_seeds():
    found = [run("finetune", 0.1, 0.5, seed=0), run("scratch", 0.1, 0.5, seed=1)]
    with pytest.raises(ValueError, match=r"finetune has \[0\], scratch \[1\]"):
        difference(found, 0.1)


def test_labels_saved_are_interpolated_on_the_logarithm():
    # 0.5 lies a quarter of the way from 0.4 at 10^-1 to 0.8 at 10^0.
    found = labels_saved(runs({("finetune", 0.01): [0.5], **CURVE}), 0.01)
    assert found.needed == pytest.approx(1000 * 10**-0.75)
    assert found.factor == pytest.approx(10**1.25)
    assert found.reason is None


def test_a_measured_share_is_met_exactly_and_fewer_labels_are_said():
    assert labels_saved(runs({("finetune", 0.01): [0.4], **CURVE}), 0.01).needed == pytest.approx(100)
    assert labels_saved(runs({("finetune", 1.0): [0.3], **CURVE}), 1.0).factor == pytest.approx(10**-1.5)


@pytest.mark.parametrize(("ours", "reason"), [(0.9, "not reached by scratch with 100 %"),
                                              (0.1, "scratch is above it already at 1 %")])
def test_what_lies_outside_is_not_extrapolated(ours, reason):
    found = labels_saved(runs({("finetune", 0.1): [ours], **CURVE}), 0.1)
    assert found.needed is None
    assert found.factor is None
    assert found.reason.startswith(reason)


def test_labels_saved_take_a_curve():
    with pytest.raises(ValueError, match="two shares or more"):
        labels_saved(runs({("finetune", 0.1): [0.5], ("scratch", 0.1): [0.4]}), 0.1)


def test_the_first_crossing_counts():
    curve = ((0, 0.1), (10, 0.6), (20, 0.5), (30, 0.7))
    assert [first(curve, level) for level in (0.1, 0.6, 0.65, 0.9)] == [0, 10, 30, math.inf]


def test_time_to_an_accuracy_is_the_median_and_in_seconds_of_training():
    quick, slow, never = ((0, 0.1), (10, 0.7), (40, 0.8)), ((0, 0.1), (10, 0.2), (40, 0.7)), ((0, 0.1), (40, 0.3))
    curves = enumerate((quick, slow, never))
    found = [run("scratch", 1.0, 0.5, seed, curve=curve, seconds=8.0) for seed, curve in curves]
    time = time_to(found, 0.6, "scratch", 1.0)
    assert (time.steps, time.seconds, time.reached, time.n) == (40.0, 8.0, 2, 3)
    assert time_to(found[:1], 0.6, "scratch", 1.0).seconds == pytest.approx(2.0)


@pytest.mark.parametrize("count", [1, 2])
def test_half_reaching_is_not_reaching(count):
    found = [run("scratch", 1.0, 0.5, 0)] if count == 2 else []
    found += [run("scratch", 1.0, 0.5, seed, curve=((0, 0.1), (10, 0.2))) for seed in range(1, 2)]
    time = time_to(found, 0.4, "scratch", 1.0)
    assert (time.steps, time.seconds, time.reached) == (None, None, count - 1)


def test_what_was_not_measured_is_not_read():
    with pytest.raises(ValueError, match="no run of 'finetune' with a share of 0.5"):
        accuracy([run("scratch", 0.5, 0.1)], "finetune", 0.5)


def test_labels_are_counted_where_a_share_keeps_more_than_its_name_says():
    """Of 10 classes with 30 examples 1 % keeps one a class, 10 labels; 10 % keeps 30, not 10 times as many."""
    found = [run("finetune", 0.01, 0.5, labels=10), run("scratch", 0.01, 0.2, labels=10),
             run("scratch", 0.1, 0.5, labels=30), run("scratch", 1.0, 0.8, labels=300)]
    assert labels_saved(found, 0.01).factor == pytest.approx(3)


def test_differences_that_are_equal_by_rounding_decide_nothing():
    found = runs({("finetune", 0.1): [0.505, 0.505], ("scratch", 0.1): [0.5, 0.5]})
    assert difference(found, 0.1).verdict == "not decided at 2 seeds"


def test_a_level_that_is_there_at_the_start_takes_no_time():
    time = time_to([run("scratch", 1.0, 0.5, curve=((0, 0.5),))], 0.4, "scratch", 1.0)
    assert (time.steps, time.seconds) == (0, 0)
