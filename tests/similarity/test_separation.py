"""The H-score against covariances and a pseudo-inverse written out."""

import warnings

import numpy as np
import pytest
import torch

from forgetting.similarity import h_score
from tests.similarity.test_evidence import drawn


def slow(features, labels):
    """tr(cov(f)⁺ cov(E[f|y])) from sums over examples."""
    F, y = features.double().numpy(), labels.numpy()
    n, d = F.shape
    mean = sum(F) / n
    whole, between = np.zeros((d, d)), np.zeros((d, d))
    for row, label in zip(F, y, strict=True):
        whole += np.outer(row - mean, row - mean) / n
        expected = F[y == label].mean(0)
        between += np.outer(expected - mean, expected - mean) / n
    return float(np.trace(np.linalg.pinv(whole, rcond=1e-10, hermitian=True) @ between))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("d", "rank"), [(4, None), (8, 3), (1, None)])
def test_it_is_its_formula(seed, d, rank):
    features, labels = drawn(40, d, rank=rank, seed=seed)
    labels[0] = 7  # classes of unequal size, and numbers without examples
    assert h_score(features, labels) == pytest.approx(slow(features, labels), rel=1e-9)


def test_it_does_not_change_under_affine_maps():
    features, labels = drawn(40, 4)
    expected = h_score(features, labels)
    changed = features @ torch.randn(4, 6, generator=torch.Generator().manual_seed(1)).double() + 5
    assert h_score(changed, labels) == pytest.approx(expected, rel=1e-9)


def test_float32_far_from_zero_and_rank_deficient():
    features, labels = drawn(60, 8, rank=3)
    expected = h_score(features, labels)
    assert h_score(features.float(), labels) == pytest.approx(expected, rel=1e-4)  # rounding is no fourth direction
    assert h_score((features + 1000).float(), labels) == pytest.approx(expected, rel=1e-2)


def test_the_ends_of_its_range():
    labels = torch.arange(30) % 3
    assert h_score(torch.eye(3)[labels], labels) == pytest.approx(2)
    apart = torch.randn(30, 2, generator=torch.Generator().manual_seed(0)).double()
    hot = torch.nn.functional.one_hot(labels).double()
    assert h_score(apart - hot @ torch.linalg.lstsq(hot, apart).solution, labels) == pytest.approx(0, abs=1e-12)


def test_too_few_examples_are_told():
    features, labels = drawn(12, 20)
    with pytest.warns(UserWarning, match="12 examples with features of rank 11 have the H-score classes − 1"):
        assert h_score(features, labels) == pytest.approx(2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        h_score(*drawn(12, 8))


def test_features_that_do_not_vary_are_refused():
    with pytest.raises(ValueError, match="the same for all 8 examples, up to rounding in torch.float32"):
        h_score(torch.full((8, 3), 0.1), torch.arange(8) % 2)
