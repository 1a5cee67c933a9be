"""A run's own diagnosis: three made-up endings, of which each lost the source elsewhere."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from forgetting.diagnosis import compare, of_run
from forgetting.protocol.ending import Ending
from forgetting.tasks import Examples
from tests.diagnosis import small

ALL = tuple(range(10))


def ending(before, after, known=ALL):
    return Ending(before, after, Examples(*small.whole(small.digits()["test"])), known, ALL, 3)


def lost_in_statistics():
    return small.shifted()


def lost_in_the_head():
    before, _ = small.shifted()
    after = copy.deepcopy(before)
    head = after[-1]
    with torch.no_grad():
        head.weight.copy_(head.weight.roll(1, 0))
        head.bias.copy_(head.bias.roll(1, 0))
    return before, after


def lost_in_the_features():
    before, _ = small.shifted()
    after = copy.deepcopy(before)
    with torch.no_grad():
        after[0].weight.zero_()
    return before, after


@pytest.mark.parametrize(("make", "remedy", "sentence"), [
    (lost_in_statistics, "old norm statistics", "by putting the old norm statistics back: hold them still"),
    (lost_in_the_head, "head refitted", "by refitting the head: the features still hold the source"),
    (lost_in_the_features, None, "the features themselves changed"),
])
def test_where_it_was_lost(make, remedy, sentence):
    before, after = make()
    states = small.state(before), small.state(after)
    found = of_run(ending(before, after))
    assert found["remedy"] == remedy
    assert sentence in found["verdict"]
    assert small.unchanged(before, states[0])
    assert small.unchanged(after, states[1])


def test_the_same_as_a_comparison():
    before, after = small.forgot()
    found = of_run(ending(before, after))
    plain = compare(before, after, small.digits()["test"]).as_data()
    for figure in ("accuracy", "confidence", "calibration_error", "negative_log_likelihood"):
        assert found["after"][figure] == pytest.approx(plain["after"][figure])
    assert found["classes"] == plain["classes"]
    assert found["fisher"] == pytest.approx(plain["fisher"], rel=1e-4)


def test_classes_that_came_later_do_not_compete_before():
    data = small.digits(5)
    before, after = small.forgot()
    inputs, targets = small.whole(data["test"])
    found = of_run(Ending(before, after, Examples(inputs, targets), (0, 1, 2, 3, 4), ALL, 0))
    with torch.no_grad():
        known = before(inputs)[:, :5].argmax(1) == targets
        kept = after(inputs).argmax(1) == targets
    assert found["before"]["accuracy"] == pytest.approx(float(known.double().mean()))
    assert found["after"]["accuracy"] == pytest.approx(float(kept.double().mean()))
    head = next(each for each in found["recoveries"] if each["name"] == "head refitted")
    assert head["accuracy"] > found["after"]["accuracy"]  # found although some of its outputs are hidden


def test_no_more_examples_than_it_says(monkeypatch):
    monkeypatch.setattr("forgetting.diagnosis.ended.EXAMPLES", 250)
    before, after = small.forgot()
    assert of_run(ending(before, after))["examples"] == 250


def test_bins_of_reliability_make_the_calibration_error():
    before, after = small.forgot()
    found = of_run(ending(before, after))["after"]
    bins, total = found["reliability"], sum(one["examples"] for one in found["reliability"])
    assert total == len(small.whole(small.digits()["test"])[1])
    error = sum(one["examples"] / total * abs(one["accuracy"] - one["confidence"]) for one in bins)
    assert error == pytest.approx(found["calibration_error"])
    assert [one["confidence"] for one in bins] == sorted(one["confidence"] for one in bins)


def test_a_model_without_a_head_is_diagnosed_too():
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.Tanh())
    found = of_run(ending(model, copy.deepcopy(model)))
    assert found["remedy"] is None
    assert next(each for each in found["recoveries"] if each["name"] == "head refitted")["note"]
