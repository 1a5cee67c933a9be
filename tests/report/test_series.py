"""The numbers behind the figures, worked out by hand."""

import numpy as np
import pytest

from forgetting.report import series
from forgetting.report.groups import experiments
from forgetting.report.headline import headline
from forgetting.report.rows import experiment_rows
from tests.report.made import TASKS, made, transfer


def step(number, source, target):
    return {"task": 2, "step": number, "loss": 0.0, "accuracy": dict(zip(TASKS, (source, target), strict=True))}


def only(*results):
    (experiment,) = experiments(results)
    return experiment


def test_a_curve_runs_from_the_given_model_to_the_kept_one():
    experiment = only(made("finetune", 0, transfer(0.8, 0.5, 0.9), steps=[step(10, 0.7, 0.6), step(20, 0.5, 0.9)]),
                      made("finetune", 1, transfer(0.6, 0.5, 0.7), steps=[step(10, 0.5, 0.4), step(20, 0.5, 0.7)]))
    timeline = series.Timeline(experiment)
    curve = timeline.source(experiment.groups[0])
    assert curve.positions.tolist() == [0, 10, 20]
    assert curve.mean == pytest.approx([0.7, 0.6, 0.5])
    assert curve.error == pytest.approx([0.1, 0.1, 0.0], abs=1e-12)
    assert timeline.targets(experiment.groups[0]).mean == pytest.approx([0.1, 0.5, 0.8])
    assert not timeline.scaled


def test_an_average_after_the_last_step_is_seen_as_a_step_of_its_own():
    experiment = only(made("finetune", 0, transfer(0.8, 0.5, 0.9), steps=[step(20, 0.5, 0.9)]),
                      made("wise-ft", 0, transfer(0.8, 0.7, 0.8), steps=[step(20, 0.5, 0.9)]))
    timeline = series.Timeline(experiment)
    averaged = timeline.source(experiment.groups[1])
    assert averaged.positions.tolist() == [0, 20, 30]
    assert averaged.mean == pytest.approx([0.8, 0.5, 0.7])
    assert not timeline.scaled


def test_longer_tasks_are_drawn_to_the_common_width():
    short, long = [step(10, 0.6, 0.8), step(20, 0.5, 0.9)], [step(20, 0.8, 0.8), step(40, 0.8, 0.9)]
    experiment = only(made("finetune", 0, transfer(0.8, 0.5, 0.9), steps=short),
                      made("joint", 0, transfer(0.8, 0.8, 0.9), joint=True, steps=long))
    timeline = series.Timeline(experiment)
    assert timeline.scaled
    assert timeline.source(experiment.groups[1]).positions.tolist() == [0, 10, 20]


def test_interpolation_by_hand():
    curve = [{"task": 2, "amount": 0.0, "accuracy": [0.8, 0.1]}, {"task": 2, "amount": 1.0, "accuracy": [0.4, 0.6]}]
    experiment = only(made("finetune", 0, transfer(0.8, 0.4, 0.6)),
                      made("wise-ft", 0, transfer(0.8, 0.6, 0.4), curve=curve))
    first, last = series.interpolation(experiment.groups[1])
    assert (first["amount"], first["retention"], first["adaptation"]) == (0.0, pytest.approx(1.0), pytest.approx(1 / 6))
    assert (last["amount"], last["retention"], last["adaptation"]) == (1.0, pytest.approx(0.5), pytest.approx(1.0))
    assert series.interpolation(experiment.groups[0]) == []


def test_drift_takes_the_weight_of_a_layer():
    drifts = [{"a.weight": weight, "a.bias": 9.0, "scale": 0.5} for weight in (0.1, 1.1)]
    results = [made("finetune", seed, transfer(0.8, 0.4, 0.6), drift=drift) for seed, drift in enumerate(drifts)]
    assert series.drift(only(*results).groups[0]) == pytest.approx({"a": 0.6, "scale": 0.5})


def test_the_share_of_the_norm_statistics_by_hand():
    group = only(made("finetune", 0, transfer(0.9, 0.4, 0.8), restored=0.8)).groups[0]
    found = series.norm_statistics(group)
    assert found["share"] == pytest.approx(0.4 / 0.5)
    assert found["gained"]["mean"] == pytest.approx(0.4)
    assert series.norm_statistics(only(made("finetune", 0, transfer(0.9, 0.4, 0.8))).groups[0]) is None
    unharmed = only(made("ewc", 0, transfer(0.9, 0.9, 0.8), restored=0.9)).groups[0]
    assert series.norm_statistics(unharmed)["share"] is None


def test_long_curves_are_thinned_with_both_ends_kept():
    from forgetting.report.plots.lines import POINTS, thinned

    found = thinned(10_000)
    assert len(found) == POINTS
    assert (found[0], found[-1]) == (0, 9_999)
    assert thinned(3).tolist() == [0, 1, 2]


def sentence(*results):
    return headline(experiment_rows(only(*results)), {"joint"}).replace("\N{NO-BREAK SPACE}", " ")


def test_the_headline_is_computed_from_the_rows():
    results = []
    for seed in range(8):
        results += [made("finetune", seed, transfer(0.8, 0.4, 0.8)), made("timid", seed, transfer(0.8, 0.8, 0.4)),
                    made("ewc", seed, transfer(0.8, 0.6 + seed / 1000, 0.8)),
                    made("joint", seed, transfer(0.8, 0.8, 0.8), joint=True)]
    said = sentence(*results)
    assert said.startswith("Plain fine-tuning kept 50 % of the source accuracy (80.0 → 40.0 %). ewc kept 75 %")
    assert "2 of 2 methods kept significantly more" in said  # three comparisons of 2 / 256
    assert "1 seed is too few" in sentence(*(result for result in results if result.seed == 0))
    assert "No method that adapted" in sentence(made("finetune", 0, transfer(0.8, 0.6, 0.8)),
                                                made("ewc", 0, transfer(0.8, 0.5, 0.8)))
    assert "never learned" in sentence(made("ewc", 0, transfer(0.0, 0.0, 0.8)))
    assert sentence(made("ewc", 0, transfer(0.8, 0.6, 0.8))) == "ewc kept the most: 75 %."


def test_means_of_matrices():
    group = only(made("ewc", 0, transfer(0.8, 0.6, 0.8)), made("ewc", 1, transfer(0.6, 0.4, 0.8))).groups[0]
    assert np.allclose(series.mean_matrix(group), transfer(0.7, 0.5, 0.8))


def test_seeds_may_name_their_tasks_differently():
    """Classes dealt out anew, or angles drawn anew, for each seed."""
    runs = [made("finetune", seed, transfer(0.8, 0.5, 0.9), tasks=names, steps=[
        {"task": 2, "step": step, "loss": 0.0, "accuracy": dict(zip(names, accuracy, strict=True))}
        for step in (10, 20)])
        for seed, (names, accuracy) in enumerate(((("0-1", "2-3"), (0.7, 0.5)), (("7-4", "1-8"), (0.5, 0.3))))]
    experiment = only(*runs)
    timeline = series.Timeline(experiment)
    assert timeline.source(experiment.groups[0]).mean[1] == pytest.approx(0.6)
    assert timeline.targets(experiment.groups[0]).mean[1] == pytest.approx(0.4)
