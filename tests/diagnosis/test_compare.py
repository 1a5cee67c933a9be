"""What a fine-tune lost: whole comparisons of small networks that forgot."""

import copy
import json
import math

import pytest
import torch
from torch import nn

from forgetting import still
from forgetting.curvature import Diagonal
from forgetting.diagnosis import compare
from forgetting.protocol.measure import drift
from tests.diagnosis.small import cnn, digits, forgot, mlp, seeded, shifted, state, unchanged, whole

OLD, NEW, HEAD = "old norm statistics", "new norm statistics", "head refitted"


def by_name(rows):
    return {each.name: each for each in rows}


@pytest.fixture(scope="module")
def lost():
    before, after = forgot()
    return compare(before, after, digits(5)["test"])


def answers(model, batches):
    return torch.cat([model(inputs).argmax(1) for inputs, _ in batches])


def test_retention_and_flips_are_those_of_a_loop(lost):
    before, after = forgot()
    source = digits(5)["test"]
    targets = whole(source)[1].tolist()
    old, new = answers(before, source).tolist(), answers(after, source).tolist()
    n = len(targets)
    counts = {"negative": 0, "positive": 0, "same": 0, "old": 0, "new": 0}
    for target, one, other in zip(targets, old, new, strict=True):
        counts["negative"] += one == target != other
        counts["positive"] += one != target == other
        counts["same"] += one == other
        counts["old"] += one == target
        counts["new"] += other == target
    assert lost.examples == n
    assert lost.labelled
    assert lost.before.accuracy == pytest.approx(counts["old"] / n)
    assert lost.after.accuracy == pytest.approx(counts["new"] / n)
    assert lost.negative_flips.estimate == pytest.approx(counts["negative"] / n)
    assert lost.positive_flips.estimate == pytest.approx(counts["positive"] / n)
    assert lost.agreement.estimate == pytest.approx(counts["same"] / n)
    assert lost.difference.estimate == pytest.approx((counts["new"] - counts["old"]) / n)
    assert lost.difference.low < lost.difference.estimate < lost.difference.high < -0.3
    assert lost.before.accuracy > 0.9
    assert sum(each.examples for each in lost.classes) == n
    assert [each.drop for each in lost.classes] == sorted((each.drop for each in lost.classes), reverse=True)
    assert lost.after.calibration_error > lost.before.calibration_error
    assert lost.after.negative_log_likelihood > lost.before.negative_log_likelihood


def test_drift_is_that_of_a_loop_over_examples_and_classes(lost):
    before, after = forgot()
    old, new = copy.deepcopy(before).double().eval(), copy.deepcopy(after).double()
    inputs, _ = whole(digits(5)["test"])
    expected = dict.fromkeys(dict(old.named_parameters()), 0.0)
    moved = {name: value.detach() - dict(old.named_parameters())[name].detach()
             for name, value in new.named_parameters()}
    for row in inputs[:, None].double():
        logs = torch.log_softmax(old(row)[0], 0)
        for log in logs:
            scores = torch.autograd.grad(log, list(old.parameters()), retain_graph=True)
            for name, score in zip(expected, scores, strict=True):
                drifted = (score.square() * moved[name].square()).sum()
                expected[name] += float(log.detach().exp() * drifted) / len(inputs)
    relative = drift(after, {name: value.detach() for name, value in before.named_parameters()})
    for each in lost.parameters:
        assert each.fisher == pytest.approx(expected[each.name], rel=1e-4)
        assert each.relative == pytest.approx(relative[each.name])
        assert each.weights == dict(before.named_parameters())[each.name].numel()
    assert lost.fisher == pytest.approx(sum(expected.values()), rel=1e-4)
    layer, parts = by_name(lost.modules)["3"], [each for each in lost.parameters if each.name.startswith("3.")]
    assert (layer.kind, layer.weights) == ("Linear", 24 * 25)
    assert layer.fisher == pytest.approx(sum(each.fisher for each in parts))
    size = math.sqrt(sum(float(value.detach().norm()) ** 2 for value in before[3].parameters()))
    assert layer.relative == pytest.approx(math.sqrt(sum(float(moved[each.name].norm()) ** 2 for each in parts)) / size,
                                           rel=1e-5)
    assert all(0 < each.cka < 1 for each in lost.modules)
    assert by_name(lost.modules)["1"].cka > by_name(lost.modules)["5"].cka


def test_sampled_labels_draw_near_the_exact_ones_and_seeds_repeat(lost):
    before, after = forgot()
    assert lost.labels == "exact"
    found = [compare(before, after, digits(5)["test"], labels="sampled", seed=seed) for seed in (3, 3, 0, 1, 2)]
    assert found[0] == found[1]
    assert len({each.fisher for each in found}) == 4
    assert sum(each.fisher for each in found[1:]) / 4 == pytest.approx(lost.fisher, rel=0.4)
    wide = seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 33)))
    assert compare(wide, wide, digits(5)["test"]).labels == "sampled"


def test_the_head_is_refitted_on_the_features_and_brings_most_back(lost):
    found = by_name(lost.recoveries)[HEAD]
    assert found.share > 0.5
    assert found.share == pytest.approx((found.accuracy - lost.after.accuracy)
                                        / (lost.before.accuracy - lost.after.accuracy))
    assert found.gain.estimate == pytest.approx(found.accuracy - lost.after.accuracy)
    assert found.reference >= 0.9
    assert found.note is None
    assert [each.accuracy for each in lost.recoveries[:2]] == [None, None]
    assert "keeps no norm statistics" in lost.recoveries[0].note


def test_refit_takes_other_data_for_the_head():
    before, after = forgot()
    test, train = digits(5)["test"], digits(5)["train"]
    found = by_name(compare(before, after, test, refit=iter(train)).recoveries)[HEAD]
    assert found.share > 0.5
    wrong = [(inputs, 4 - targets) for inputs, targets in train]
    assert by_name(compare(before, after, test, refit=wrong).recoveries)[HEAD].accuracy < 0.4


def test_the_old_norm_statistics_bring_all_back_where_only_they_moved():
    before, after = shifted()
    found = compare(before, after, digits()["test"])
    assert found.difference.high < -0.3
    old = by_name(found.recoveries)[OLD]
    assert old.accuracy == found.before.accuracy
    assert old.share == 1
    assert by_name(found.recoveries)[NEW].share > 0.8
    assert all(each.relative == each.fisher == 0 for each in found.parameters)
    assert by_name(found.modules)["0"].cka == pytest.approx(1)
    assert found.verdict.endswith("100 % of the loss comes back by putting the old norm statistics back: hold them "
                                  "still (forgetting.still).")


@pytest.mark.parametrize("held", [False, True])
def test_new_statistics_are_those_of_the_batches(held):
    _, after = shifted()
    after = copy.deepcopy(after)
    data = digits()["test"]
    expected = copy.deepcopy(after).train()
    for layer in (expected[1], expected[4]):
        layer.reset_running_stats()
        layer.momentum = None  # torch's own cumulative average; all batches but the last are of one size
    if held:
        still(after)  # its statistics move nevertheless, and are put back
    with torch.no_grad():
        for inputs, _ in data[:-1]:
            expected(inputs)
    inputs, targets = whole(data)
    right = (expected.eval()(inputs).argmax(1) == targets).double().mean()
    found = compare(after, after, data, refit=data[:-1])
    assert by_name(found.recoveries)[NEW].accuracy == pytest.approx(float(right))
    assert by_name(found.recoveries)[NEW].share is None
    assert float(right) > found.after.accuracy + 0.3


def test_data_without_labels_are_compared_by_the_old_models_answers():
    before, after = forgot()
    source = digits(5)["test"]
    bare = compare(before, after, [inputs for inputs, _ in source])
    assert (bare.labelled, bare.positive_flips, bare.before.calibration_error) == (False, None, None)
    assert bare.before.accuracy == 1
    same = (answers(before, source) == answers(after, source)).double().mean()
    assert bare.after.accuracy == pytest.approx(float(same))
    assert by_name(bare.recoveries)[HEAD].share > 0.5
    assert by_name(compare(before, after, [inputs for inputs, _ in source],
                           refit=[inputs for inputs, _ in digits(5)["train"]]).recoveries)[HEAD].share > 0.5
    for shape in ([(inputs,) for inputs, _ in source], [(inputs, None) for inputs, _ in source],
                  ({"input": inputs} for inputs, _ in source)):
        assert compare(before, after, shape) == bare
    assert bare.verdict.startswith("The new model answers as the old one on ")


def test_columns_are_those_of_the_task_and_labels_those_of_all():
    before, after = forgot()
    source = digits(5)["test"]
    found = compare(before, after, source, outputs=[4, 3, 2, 1, 0])
    inputs, targets = whole(source)
    assert found.outputs == (4, 3, 2, 1, 0)
    assert found.after.accuracy == pytest.approx(float((after(inputs)[:, :5].argmax(1) == targets).double().mean()))
    assert sorted(each.label for each in found.classes) == [0, 1, 2, 3, 4]
    assert by_name(found.recoveries)[HEAD].accuracy > 0.7
    bare = compare(before, after, [inputs], outputs=[4, 3, 2, 1, 0])
    assert {each.label for each in bare.classes} == set(before(inputs)[:, :5].argmax(1).tolist())


@pytest.mark.parametrize("broken", [False, True])
def test_both_models_are_left_as_found(broken):
    before, after = seeded(cnn), seeded(cnn, 1)
    before[1].eval()
    before[3].weight.requires_grad_(False)
    after.train()
    kept, generator = (state(before), state(after)), torch.get_rng_state()
    data = digits()["test"][:2]
    if broken:
        with pytest.raises(ValueError, match=r"labels \[10\], which are none of the 10 outputs"):
            compare(before, after, [data[0], (data[1][0], data[1][1] + 1)])
    else:
        found = compare(before, after, torch.utils.data.DataLoader(data, batch_size=None, shuffle=True))
        assert len(found.parameters) == 10
    assert unchanged(before, kept[0])
    assert unchanged(after, kept[1])
    assert torch.equal(torch.get_rng_state(), generator)


def test_what_wraps_a_model_is_looked_through():
    before, after = forgot()
    test = digits(5)["test"]
    assert compare(nn.DataParallel(before), torch.compile(after), test) == compare(before, after, test)


def test_plain_data_are_json(lost):
    data = json.loads(json.dumps(lost.as_data(), allow_nan=False))
    assert data["format"] == "forgetting.comparison/1"
    assert data["verdict"] == lost.verdict
    assert data["difference"]["low"] == lost.difference.low
    assert data["classes"][0]["drop"] == lost.classes[0].drop
    assert data["modules"][1]["cka"] == lost.modules[1].cka
    assert data["recoveries"][2]["gain"]["estimate"] == lost.recoveries[2].gain.estimate
    assert data["fisher"] == lost.fisher


class Scaled(nn.Module):
    """Gives its last layer's outputs on, multiplied."""

    def __init__(self):
        super().__init__()
        self.body, self.head, self.scale = nn.Flatten(), nn.Linear(64, 10), nn.Parameter(torch.ones(()))

    def forward(self, inputs):
        return self.head(self.body(inputs)) * self.scale


def test_a_head_that_cannot_be_told_is_named():
    model, data = seeded(Scaled), digits()["test"]
    found = by_name(compare(model, model, data).recoveries)[HEAD]
    assert (found.accuracy, found.note) == (None, "no linear layer gives the logits as they are; say which with head=")
    assert by_name(compare(model, model, data, head="head").recoveries)[HEAD].accuracy > 0.8
    assert by_name(compare(model, model, data).modules)[""].kind == "Scaled"
    with pytest.raises(ValueError, match=r"head='body' is a Flatten, expected a linear layer: head"):
        compare(model, model, data, head="body")
    with pytest.raises(ValueError, match=r"'haed'; did you mean 'head'"):
        compare(model, model, data, head="haed")


def test_a_single_example_shows_nothing():
    model, (inputs, targets) = seeded(cnn), digits()["test"][0]
    found = compare(model, model, [(inputs[:1], targets[:1])])
    assert found.difference is None
    assert "of a single example, which shows nothing" in found.verdict
    assert [each.note for each in found.recoveries[1:]] == [
        "no batch has two examples", "a single example has no halves to fit and to test on"]
    assert all(each.cka is None for each in found.modules)


IMAGES = torch.zeros(4, 1, 8, 8)


@pytest.mark.parametrize(("build", "data", "options", "words"), [
    (lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 9)), [IMAGES], {}, "only before has 3.weight, 3.bias, 5.weight"),
    (lambda: nn.Sequential(*mlp()[:5], nn.Linear(24, 9)), [IMAGES], {},
     r"5.weight \(10, 24\) and \(9, 24\), 5.bias \(10,\) and \(9,\)"),
    (mlp, [], {}, "the data holds no examples"),
    (mlp, [(IMAGES, torch.zeros(4))], {}, r"labels as whole numbers of shape \(4,\), got torch.float32"),
    (mlp, [(IMAGES, torch.full((4,), -100))], {}, r"the labels \[-100\], which are none of the 10 outputs"),
    (mlp, [(IMAGES, torch.full((4,), 7))], {"outputs": range(5)}, r"the labels \[7\], which are none of the 5 outputs"),
    (mlp, [IMAGES], {"outputs": [3, 10]}, "outputs= names column 10, the model gives 10"),
    (mlp, [IMAGES, (IMAGES, torch.zeros(4).long())], {}, "1 of 2 batches have labels"),
    (mlp, [IMAGES * torch.nan], {}, "the outputs of the model before fine-tuning are not finite"),
    (mlp, [IMAGES], {"labels": "empirical"}, "labels='empirical' is not one of exact, sampled"),
    (mlp, [(IMAGES, torch.zeros(4).long())], {"refit": [IMAGES]}, "refit= has no labels, the source data has"),
    (mlp, [IMAGES], {"forward": lambda model, batch: (model(batch[0])[:, None], None)},
     r"outputs \[examples, classes\]; the model gives \(4, 1, 10\)"),
])
def test_what_cannot_be_compared_is_said(build, data, options, words):
    with pytest.raises(ValueError, match=words):
        compare(seeded(mlp), seeded(build), data, **options)


def test_the_fisher_norm_is_the_curvatures_quadratic(lost):
    before, after = forgot()
    from forgetting import fisher

    matrix = fisher.diagonal(before, digits(5)["test"])
    assert isinstance(matrix, Diagonal)
    moved = {name: value.detach() - dict(before.named_parameters())[name].detach()
             for name, value in after.named_parameters()}
    assert lost.fisher == pytest.approx(float(matrix.quadratic(moved)), rel=1e-5)
