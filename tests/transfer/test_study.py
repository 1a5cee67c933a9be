"""The three arms at equal budget: what learns, what is counted, what is resumed, what is refused."""

import json
from collections import Counter

import pytest
import torch
from torch import nn

from forgetting import transfer
from forgetting.protocol import train as loop
from tests.transfer.made import target

RATES = {"finetune": (0.01, 0.1), "scratch": (0.01, 0.1), "linear-probe": (0.01, 0.1)}
STEPS = 7


class Knowing(nn.Sequential):
    """Features that know the target: one class a unit."""

    def __init__(self):
        super().__init__(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 3))
        with torch.no_grad():
            self[0].weight.copy_(torch.eye(4)[:3])
            self[0].bias.zero_()


def knowing(sequence):
    return Knowing()


def fresh(sequence):
    return nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 3))


def measured(folder, **changes):
    settings = {"shares": [0.1, 1.0], "seeds": [0, 1], "budget": transfer.Budget(STEPS, batch=8, every=3),
                "store": folder, **changes}
    return transfer.measure(target(), transfer.arms(knowing, fresh, rates=RATES), **settings)


@pytest.fixture(scope="module")
def counted(tmp_path_factory):
    """A study, and how many optimizer steps each of its runs took: from the events, and from the optimizers."""
    begun, steps = [], Counter()
    step = torch.optim.SGD.step

    def counting(self, *arguments, **named):
        steps[id(begun[-1])] += 1
        return step(self, *arguments, **named)

    def observe(event):
        if event["event"] == "start":
            begun.append(event)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.SGD, "step", counting)
        study = measured(tmp_path_factory.mktemp("store"), observe=observe)
    return study, [steps[id(event)] for event in begun]


def test_every_run_takes_as_many_steps(counted):
    study, steps = counted
    choosing, reporting = 3 * 2 * 2, 3 * 2 * 2  # arms × rates × shares, arms × shares × seeds
    assert steps == [STEPS] * (choosing + reporting)
    assert {run.steps for run in study.runs} == {STEPS}


def test_all_arms_see_the_same_batches(tmp_path, monkeypatch):
    seen = {}
    original = loop.Lesson.batches

    def watched(self, *arguments, **named):
        batches = list(original(self, *arguments, **named))
        seen.setdefault(tuple(len(targets) for _, targets in batches), []).append(
            torch.cat([inputs.flatten() for inputs, _ in batches]))
        return iter(batches)

    monkeypatch.setattr(loop.Lesson, "batches", watched)
    measured(tmp_path, seeds=[0], chosen_at=1.0)
    small = seen[(6,) * STEPS]  # a tenth of 60: no batch holds more
    assert len(small) == 3
    assert all(torch.equal(small[0], other) for other in small)


def test_every_arm_share_and_seed_has_a_run_with_its_curve(counted):
    study, _ = counted
    cells = {(run.arm, run.share, run.seed): run for run in study.runs}
    assert len(cells) == len(study.runs) == 12
    assert {run.labels for run in study.runs} == {6, 60}
    assert all([step for step, _ in run.curve] == [0, 3, 6, STEPS] for run in study.runs)
    for seed in (0, 1):  # fine-tuning and the probe begin with one head
        assert cells["finetune", 1.0, seed].curve[0] == cells["linear-probe", 1.0, seed].curve[0]


def test_rates_are_the_best_on_validation_data(counted):
    study, _ = counted
    assert len(study.chosen) == 6
    for choice in study.chosen:
        assert set(choice.scores) == set(RATES[choice.arm])
        assert choice.scores[choice.rate] == max(choice.scores.values())
        assert {run.rate for run in study.runs if (run.arm, run.share) == (choice.arm, choice.share)} == {choice.rate}


def test_choosing_never_sees_a_test_example(tmp_path):
    def broken(sequence):
        if len(sequence[1].test) != len(sequence[0].test):
            raise AssertionError("the test part")
        return Knowing()

    data = target()
    data = data._replace(test=data.test.subset(range(10)))
    arms = transfer.arms(broken, broken, rates=RATES)
    with pytest.raises(AssertionError, match="the test part"):  # the first reported run, once all rates are chosen
        transfer.measure(data, arms, shares=[1.0], seeds=[0], budget=transfer.Budget(1), store=tmp_path)
    assert len(list(tmp_path.rglob("*.json"))) >= 6


def test_only_the_last_layer_of_a_probe_learns(tmp_path, monkeypatch):
    kept = []

    def watching(sequence):
        kept.append(Knowing())
        return kept[-1]

    ends = []
    original = loop.train

    def watched(model, *arguments, **named):
        original(model, *arguments, **named)
        ends.append(model[0].weight.detach().clone())

    monkeypatch.setattr("forgetting.protocol.learning.train", watched)
    rates = dict.fromkeys(RATES, (0.1,))
    transfer.measure(target(), transfer.arms(watching, fresh, rates=rates), shares=[1.0], seeds=[0],
                     budget=transfer.Budget(3), store=tmp_path)
    start = torch.eye(4)[:3]
    assert [torch.equal(end, start) for end in ends] == [False, False, True] * 2


def test_what_a_store_holds_is_not_learned_again(tmp_path, monkeypatch):
    before = measured(tmp_path, seeds=[0])
    monkeypatch.setattr(torch.optim.SGD, "step", lambda *_, **__: pytest.fail("a step was taken again"))
    assert measured(tmp_path, seeds=[0]) == before


def test_an_interrupted_study_goes_on(tmp_path):
    ended = []

    def stopping(event):
        if event["event"] == "result":
            ended.append(event["key"])
            if len(ended) == 8:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measured(tmp_path, seeds=[0], observe=stopping)
    finished = []
    resumed = measured(tmp_path, seeds=[0], observe=lambda event: event["event"] == "start" and finished.append(
        event["finished"]))
    assert finished == [True] * 8 + [False] * 10
    fresh_start = measured(tmp_path / "other", seeds=[0])
    assert [run.curve for run in resumed.runs] == [run.curve for run in fresh_start.runs]


def test_a_study_is_the_same_from_json(counted):
    study, _ = counted
    assert transfer.Study.from_data(json.loads(json.dumps(study.as_data()))) == study


def test_transfer_from_features_that_know_pays(counted):
    study, _ = counted
    assert transfer.accuracy(study.runs, "finetune", 1.0).mean > transfer.accuracy(study.runs, "scratch", 1.0).mean


@pytest.mark.parametrize("seeds", [[], [0, 1000]])
def test_seeds_that_cannot_be_reported(tmp_path, seeds):
    with pytest.raises(ValueError, match="and not 1000, which chooses"):
        measured(tmp_path, seeds=seeds)


def test_a_target_without_validation_data_is_refused(tmp_path):
    data = target()
    empty = data._replace(validation=data.validation.subset([]))
    with pytest.raises(ValueError, match="no validation examples"):
        transfer.measure(empty, transfer.arms(knowing, fresh, rates=RATES), shares=[1.0], seeds=[0],
                         budget=transfer.Budget(1), store=tmp_path)


def test_every_arm_has_as_many_candidates():
    with pytest.raises(ValueError, match="as many candidates"):
        transfer.arms(knowing, fresh, rates={**RATES, "scratch": (0.1,)})


def test_a_range_that_diverges_is_named(tmp_path):
    wild = {**RATES, "scratch": (1e30, 1e31)}
    with pytest.raises(ValueError, match="every rate of scratch diverged"):
        transfer.measure(target(), transfer.arms(knowing, fresh, rates=wild), shares=[1.0], seeds=[0],
                         budget=transfer.Budget(5), store=tmp_path)

