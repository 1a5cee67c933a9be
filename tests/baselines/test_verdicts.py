"""A verdict is earned: by all seeds, within the criterion, on a figure that was verified."""

import math

import pytest

from baselines.targets import Claim, Published, Target
from baselines.verdicts import MET, MISSED, OPEN, Measured, of_claim, of_target

ABOUT = Published("table", "A table", "somewhere", n=10, targets=(), claims=(), curve={}, spread="standard error")


def measured(figures, seeds=None, strength=None):
    """A row whose figures, in percent, are of seeds 0, 1, …"""
    runs = [{"seed": seed, "strength": strength, "accuracy": [[0.0], [figure / 100]], "seconds_training": 1.0,
             "seconds_consolidation": 0.0} for seed, figure in enumerate(figures)]
    return Measured({"figure": "average_accuracy", "strength": strength, "seeds": seeds or len(runs), "runs": runs})


@pytest.mark.parametrize(("target", "sign"), [
    (Target("row", 90.0, within=1.0), MET),
    (Target("row", 91.6, within=1.0), MISSED),
    (Target("row", 91.6, spread=0.9, deviations=2), MET),
    (Target("row", 91.6, spread=0.7, deviations=2), MISSED),
    (Target("row", 91.6, spread=0.6, welch=True), MET),
    (Target("row", 95.0, spread=0.6, welch=True), MISSED),
    (Target("row", 90.0, within=1.0, verified=False), OPEN),
    (Target("row"), OPEN),
])
def test_a_figure_is_held_against_its_criterion(target, sign):
    verdict = of_target(ABOUT, target, measured([89.0, 90.0, 91.0]))
    assert verdict.sign == sign
    assert verdict.gap == (None if target.mean is None else pytest.approx(90.0 - target.mean))


def test_a_row_without_all_its_seeds_earns_nothing():
    target = Target("row", 90.0, within=1.0)
    verdict = of_target(ABOUT, target, measured([90.0, 90.0], seeds=10))
    assert (verdict.sign, verdict.about) == (OPEN, "2 of 10 seeds (not run, or diverged)")
    assert of_target(ABOUT, target, None).sign == OPEN


@pytest.mark.parametrize(("first", "second", "sign"), [
    ([90.0, 91.0, 92.0], [80.0, 82.0, 81.0], MET),
    ([90.0, 91.0, 92.0], [90.5, 80.0, 99.0], MISSED),
    ([80.0, 82.0, 81.0], [90.0, 91.0, 92.0], MISSED),
])
def test_above(first, second, sign):
    claim = Claim("it is above", "above", ("a", "b"))
    assert of_claim(claim, [measured(first), measured(second)]).sign == sign


@pytest.mark.parametrize(("by", "sign"), [(8.0, MET), (9.9, MISSED)])
def test_above_by_so_many_points(by, sign):
    claim = Claim("it is above", "above", ("a", "b"), by=by)
    assert of_claim(claim, [measured([90.0, 91.0, 92.0]), measured([80.0, 81.1, 81.9])]).sign == sign


@pytest.mark.parametrize(("second", "sign"), [
    ([90.0, 91.0, 92.0], MET), ([90.1, 91.0, 91.9], MET), ([91.0, 92.0, 93.0], MISSED), ([85.0, 91.0, 97.0], MISSED)])
def test_alike_needs_the_whole_interval_within_its_margin(second, sign):
    claim = Claim("they are alike", "alike", ("a", "b"), within=0.5)
    verdict = of_claim(claim, [measured([90.0, 91.0, 92.0]), measured(second)])
    assert verdict.sign == sign
    assert "nan" not in verdict.about


def test_crossing_is_read_off_the_curve_of_all_strengths():
    kept = measured([96.0], strength=100.0).kept
    for strength, figure in ((1.0, 90.0), (10.0, 94.0)):
        kept["runs"].append({**kept["runs"][0], "strength": strength, "accuracy": [[0.0], [figure / 100]]})
    claim = Claim("it crosses", "crossing", ("a",), level=95.0, log10=1.2, within=0.5)
    verdict = of_claim(claim, [Measured(kept)])
    assert verdict.sign == MET
    assert verdict.about.startswith(f"at {math.log10(10) + 0.5:.2f}")
    assert of_claim(Claim("it crosses", "crossing", ("a",), level=95.0, log10=2.6, within=0.5),
                    [Measured(kept)]).sign == MISSED


def test_a_statement_about_rows_that_were_not_run_stays_open():
    claim = Claim("it is above", "above", ("a", "b"))
    assert of_claim(claim, [measured([90.0]), None]).sign == OPEN
    assert of_claim(claim, [measured([90.0, 91.0], seeds=5), measured([80.0, 81.0])]).sign == OPEN


def test_crossings_are_in_the_order_of_the_rows():
    rows = {}
    for name, figures in {"early": (96.0, 98.0), "late": (90.0, 97.0), "never": (80.0, 90.0)}.items():
        rows[name] = measured([figures[0]], strength=1.0)
        rows[name].kept["runs"].append({**rows[name].kept["runs"][0], "strength": 10.0,
                                        "accuracy": [[0.0], [figures[1] / 100]]})

    def sign(*order, level):
        return of_claim(Claim("in order", "crossings", order, level=level), [rows[name] for name in order])

    rows["early"].kept["runs"].append({**rows["early"].kept["runs"][0], "strength": 0.1, "accuracy": [[0.0], [0.5]]})
    assert sign("early", "late", level=95.0).sign == MET
    assert sign("late", "early", level=95.0).sign == MISSED
    assert sign("early", "late", "never", level=95.0).sign == MISSED
    assert "never never" in sign("early", "never", level=95.0).about
