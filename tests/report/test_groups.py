"""What is comparable, what is a variant, and what is told apart how."""

import pytest

from forgetting import report
from forgetting.report.groups import experiments
from tests.report.made import made, transfer

R = transfer(0.8, 0.6, 0.8)


def test_settings_that_differ_stand_in_the_label_and_only_those():
    results = [made("ewc", 0, R, settings={"strength": strength, "decay": 1.0}) for strength in (10.0, 1000.0)]
    (experiment,) = experiments([*results, made("l2sp", 0, R, settings={"strength": 5.0})])
    assert [group.label for group in experiment.groups] == ["ewc (strength 10)", "ewc (strength 1000)", "l2sp"]


def test_norm_statistics_tell_two_fine_tunings_apart_and_each_method_meets_its_own():
    results = [
        made("finetune", 0, transfer(0.8, 0.1, 0.8), norm_statistics="moving"),
        made("finetune", 0, transfer(0.8, 0.4, 0.8), norm_statistics="still"),
        made("ewc", 0, transfer(0.8, 0.6, 0.8), norm_statistics="still"),
    ]
    rows = {row["method"]: row for row in report.rows(results)}
    assert set(rows) == {"finetune (norm statistics moving)", "finetune (norm statistics still)", "ewc"}
    assert rows["ewc"]["paired"]["retention"]["difference"] == pytest.approx(0.25)


def test_another_rate_than_every_fine_tuning_has_nothing_to_be_compared_with():
    results = [made("finetune", 0, R, rate=rate) for rate in (0.1, 0.2)] + [made("ewc", 0, R, rate=0.3)]
    ewc = next(row for row in report.rows(results) if row["method"] == "ewc")
    assert ewc["paired"] is None
    assert "same training" in ewc["reason"]


def test_a_single_fine_tuning_serves_methods_with_other_rates():
    results = [made("finetune", 0, transfer(0.8, 0.4, 0.8), rate=0.1), made("ewc", 0, R, rate=0.3)]
    ewc = next(row for row in report.rows(results) if row["method"] == "ewc")
    assert ewc["paired"]["retention"]["difference"] == pytest.approx(0.25)


def test_another_network_or_sequence_is_another_experiment():
    results = [made("finetune", 0, R), made("finetune", 0, R, network="cnn"),
               made("finetune", 0, R, sequence="rotated-digits")]
    titles = [experiment.title for experiment in experiments(results)]
    assert titles == [
        "digits-transfer (domain-incremental), network mlp",
        "digits-transfer (domain-incremental), network cnn",
        "rotated-digits (domain-incremental), network mlp",
    ]


def test_no_results_and_one_run_twice_are_refused():
    with pytest.raises(ValueError, match="no results to report"):
        report.rows([])
    with pytest.raises(ValueError, match="two results of the same run: method 'ewc', seed 4"):
        report.rows([made("ewc", 4, R), made("ewc", 4, R)])
