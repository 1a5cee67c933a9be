"""Figures against slow and obvious references."""

import math

import numpy as np
import pytest
import torch

from forgetting.diagnosis import figures
from forgetting.diagnosis.likeness import Likeness, centred
from forgetting.diagnosis.refit import crossed, fit, halves
from forgetting.protocol import statistics


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def slow_calibration_error(confidence, right, bins=15):
    total = 0.0
    for m in range(1, bins + 1):
        inside = [i for i, c in enumerate(confidence) if (m - 1) / bins < c <= m / bins]
        if inside:
            accuracy = sum(right[i] for i in inside) / len(inside)
            sure = sum(confidence[i] for i in inside) / len(inside)
            total += len(inside) / len(confidence) * abs(accuracy - sure)
    return total


def test_calibration_likelihood_and_confidence_are_those_of_a_loop():
    logits, targets = 3 * random(200, 6), torch.arange(200) % 6
    found = figures.figures(logits, targets, labelled=True)
    confidence, right, loss = [], [], 0.0
    for row, target in zip(logits.tolist(), targets.tolist(), strict=True):
        total = sum(math.exp(value) for value in row)
        confidence.append(max(math.exp(value) / total for value in row))
        right.append(row.index(max(row)) == target)
        loss -= math.log(math.exp(row[target]) / total) / len(targets)
    assert found.calibration_error == pytest.approx(slow_calibration_error(confidence, right), abs=1e-12)
    assert found.negative_log_likelihood == pytest.approx(loss, abs=1e-12)
    assert found.confidence == pytest.approx(sum(confidence) / 200, abs=1e-12)
    assert found.accuracy == pytest.approx(sum(right) / 200, abs=1e-12)
    assert 0.05 < found.calibration_error < 0.95


def test_a_confidence_on_an_edge_belongs_to_the_bin_below():
    confidence = torch.tensor([1 / 3, 1.0], dtype=torch.float64)  # 5/15 ends the fifth bin
    assert figures.calibration_error(confidence, torch.tensor([False, True])) == pytest.approx(1 / 6)


def test_the_paired_interval_is_the_bootstrap_of_every_example():
    generator = np.random.default_rng(3)
    before = torch.from_numpy(generator.random(400) < 0.9)
    after = before & torch.from_numpy(generator.random(400) < 0.6) | torch.from_numpy(generator.random(400) < 0.03)
    found = figures.difference(after, before, seed=0)
    expected = statistics.mean_interval((after.double() - before.double()).tolist())
    assert found.estimate == pytest.approx(expected.estimate)
    assert found.low == pytest.approx(expected.low, abs=0.006)
    assert found.high == pytest.approx(expected.high, abs=0.006)
    assert figures.difference(before, before, seed=0).high == 0
    assert figures.difference(before[:1], before[:1], seed=0) is None


def test_a_skewed_interval_is_corrected_for_its_skewness():
    before, after = torch.ones(60, dtype=torch.bool), torch.ones(60, dtype=torch.bool)
    after[:3] = False
    found = figures.difference(after, before, seed=0)
    expected = statistics.mean_interval((after.double() - before.double()).tolist())
    assert (found.low, found.high) == (pytest.approx(expected.low, abs=0.018), pytest.approx(expected.high, abs=0.018))
    assert found.estimate - found.low > found.high - found.estimate


def test_shares_have_wilsons_interval():
    k, n, z = 7, 50, 1.959963984540054
    found = figures.share(torch.arange(n) < k)
    centre = (k + z * z / 2) / (n + z * z)
    half = z / (n + z * z) * math.sqrt(k * (n - k) / n + z * z / 4)
    assert found[:3] == pytest.approx((k / n, centre - half, centre + half), abs=1e-9)
    assert figures.share(torch.zeros(50) > 0).high > 0.05


def test_drops_of_classes_are_those_of_a_loop_the_worst_first():
    targets = torch.tensor([0, 0, 0, 2, 2, 1, 1, 1, 1, 4])
    before = torch.tensor([1, 1, 0, 1, 1, 1, 1, 0, 0, 1]).bool()
    after = torch.tensor([1, 0, 0, 0, 0, 1, 1, 1, 0, 0]).bool()
    found = figures.drops(targets, before, after, torch.arange(10, 16))
    for each in found:
        inside = [i for i, target in enumerate(targets.tolist()) if target + 10 == each.label]
        assert each.examples == len(inside)
        assert each.before == pytest.approx(sum(before[i].item() for i in inside) / len(inside))
        assert each.after == pytest.approx(sum(after[i].item() for i in inside) / len(inside))
    assert [each.label for each in found] == [12, 14, 10, 11]
    assert found[0].drop == 1


def slow_hsic(k, ell):
    """The unbiased HSIC as Song et al. write it."""
    n = len(k)
    k, ell = k.clone().fill_diagonal_(0), ell.clone().fill_diagonal_(0)
    ones = torch.ones(n, dtype=torch.float64)
    whole = (ones @ k @ ones) * (ones @ ell @ ones) / ((n - 1) * (n - 2))
    return (torch.trace(k @ ell) + whole - 2 / (n - 2) * (ones @ k @ ell @ ones)) / (n * (n - 3))


def test_cka_is_that_of_unbiased_estimates_in_batches():
    x, y = random(50, 7), random(50, 3, 4, seed=1)
    y = y + (x @ random(7, 12, seed=2)).view(50, 3, 4) + 100
    likeness, sums = Likeness(), [0.0, 0.0, 0.0]
    for start, stop in ((0, 30), (30, 50)):
        one, other = x[start:stop], y[start:stop]
        likeness.add({"m": centred(one.float())}, {"m": centred(other)})
        k, ell = one @ one.T, other.flatten(1) @ other.flatten(1).T
        for place, pair in enumerate(((k, ell), (k, k), (ell, ell))):
            sums[place] += (stop - start) * slow_hsic(*pair)
    assert likeness.of("m") == pytest.approx(float(sums[0] / (sums[1] * sums[2]) ** 0.5), abs=1e-6)
    assert 0.3 < likeness.of("m") < 0.99
    assert likeness.of("other") is None


def test_cka_does_not_see_rotation_scale_and_wide_features_and_sees_noise():
    x = random(60, 5)
    rotation = torch.linalg.qr(random(5, 5, seed=4)).Q
    for other, expected in ((3 * x @ rotation + 1, 1.0), (random(60, 70000, seed=5), 0.0)):
        likeness = Likeness()
        likeness.add({"m": centred(x)}, {"m": centred(other)})
        assert likeness.of("m") == pytest.approx(expected, abs=1e-9 if expected else 0.1)
    constant = Likeness()
    constant.add({"m": centred(torch.ones(9, 2))}, {"m": centred(x[:9])})
    assert constant.of("m") is None


def test_the_head_is_scikit_learns_regression():
    linear = pytest.importorskip("sklearn.linear_model")
    x, targets = 5 + random(90, 6) * torch.arange(1, 7), torch.arange(90) % 3
    x[:, 0] += targets
    x[:, 5] = 2.0  # a feature that does not vary
    found = fit(x, targets, 3)
    scaled = ((x - x.mean(0)) / torch.where(x.std(0, correction=0) > 0, x.std(0, correction=0), 1.0)).numpy()
    other = linear.LogisticRegression(C=1.0, tol=1e-9, max_iter=2000).fit(scaled, targets.numpy())
    assert found.converged
    assert found.weight[:-1].T.numpy() == pytest.approx(other.coef_, abs=1e-4)
    assert np.array_equal(found.answers(x).numpy(), other.predict(scaled))


def test_a_head_is_tested_on_what_it_did_not_see():
    targets = torch.arange(40) % 2
    half = halves(targets, seed=0)
    assert half.sum() == 20
    assert (targets[half] == 1).sum() == 10
    own = torch.eye(40, dtype=torch.float64)  # only learning by heart could use it
    answers, converged = crossed(own, targets, 2, seed=0)
    assert converged
    assert (answers == targets).double().mean() < 0.8
    answers, _ = crossed(targets.double()[:, None], targets, 2, seed=0)
    assert torch.equal(answers, targets)
