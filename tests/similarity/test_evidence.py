"""LogME against the log-density of a multivariate normal distribution, at every pair of precisions on a fine grid."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

from forgetting.similarity import logme
from forgetting.similarity.evidence import maximised


def drawn(n, d, *, rank=None, seed=0, classes=3, signal=0.5):
    """Features that tell something of the labels."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % classes
    features = torch.randn(n, rank or d, generator=generator, dtype=torch.float64)
    features = features + signal * torch.randn(classes, rank or d, generator=generator, dtype=torch.float64)[labels]
    return (features if rank is None else features @ torch.randn(rank, d, generator=generator).double()), labels


def density(features, y, prior, noise):
    """log N(y; 0, FFᵀ/α + I/β), by scipy."""
    covariance = features @ features.T / prior + np.eye(len(y)) / noise
    return multivariate_normal(np.zeros(len(y)), covariance).logpdf(y)


def fixed_point(features, y, steps=20_000):
    """Algorithm 1 of the paper, to the end."""
    values, vectors = np.linalg.eigh(features.T @ features)
    values = values.clip(min=0)
    prior = noise = 1.0
    for _ in range(steps):
        mean = vectors @ ((vectors.T @ (features.T @ y)) * noise / (prior + noise * values))
        gamma = (noise * values / (prior + noise * values)).sum()
        prior, noise = gamma / (mean @ mean), (len(y) - gamma) / ((features @ mean - y) ** 2).sum()
    return prior, noise


CASES = {
    "tall": drawn(30, 4),
    "wide": drawn(12, 20),
    "square": drawn(15, 15),
    "no noise": drawn(8, 30, signal=8.0),
    "rank-deficient": drawn(30, 8, rank=3),
    "weak": drawn(30, 4, signal=0.0, seed=3),
    "strong": drawn(30, 4, signal=8.0),
    "small": (drawn(30, 4)[0] * 1e-4, drawn(30, 4)[1]),
    "large": (drawn(30, 4)[0] * 1e4, drawn(30, 4)[1]),
    "one class missing": (drawn(30, 4)[0], torch.tensor([0, 2, 5])[drawn(30, 4)[1]]),
}


GRID = np.concatenate([np.logspace(-3, 3, 17), np.logspace(-0.1, 0.1, 9)])


def one_hot(labels):
    return labels.unique(return_inverse=True)[1], [(labels == c).double().numpy() for c in labels.unique()]


@pytest.mark.parametrize("name", CASES)
def test_it_is_the_density_at_its_precisions_and_no_better_one_is_on_a_grid(name):
    features, labels = CASES[name]
    classes, targets = one_hot(labels)
    found = maximised(features, classes)
    F = features.numpy()
    scale = float(features.square().sum() / len(F))
    for c, y in enumerate(targets):
        prior, noise = float(found.prior[c]), float(found.noise[c])
        if math.isfinite(prior) and math.isfinite(noise):
            assert float(found.log[c]) == pytest.approx(density(F, y, prior, noise), rel=1e-9)
        else:  # an end: all noise, or none
            near = density(F, y, min(prior, 1e9 * scale * noise), min(noise, 1e9 * prior / scale))
            assert float(found.log[c]) == pytest.approx(near, rel=1e-5)
        middle = (prior if math.isfinite(prior) else scale * noise, noise if math.isfinite(noise) else prior / scale)
        for a in middle[0] * GRID:
            for b in middle[1] * GRID:
                assert density(F, y, a, b) <= float(found.log[c]) + 1e-7
    assert logme(features, labels) == pytest.approx(float(found.log.mean()) / len(F), rel=1e-13)


def test_it_is_the_papers_fixed_point():
    features, labels = CASES["tall"]
    classes, targets = one_hot(labels)
    found = maximised(features, classes)
    for c, y in enumerate(targets):
        prior, noise = fixed_point(features.numpy(), y)
        assert (float(found.prior[c]), float(found.noise[c])) == pytest.approx((prior, noise), rel=1e-6)


def test_both_ends_of_the_range_are_found():
    assert torch.isinf(maximised(*CASES["no noise"]).noise).all()
    features, labels = drawn(40, 3, signal=0.0, seed=1)
    hot = torch.nn.functional.one_hot(labels).double()
    features -= hot @ torch.linalg.lstsq(hot, features).solution  # nothing of any label is left in them
    found = maximised(features, labels)
    assert torch.isinf(found.prior).all()
    y = hot[:, 0].numpy()
    assert float(found.log[0]) == pytest.approx(
        multivariate_normal(np.zeros(40), np.eye(40) * (y @ y) / 40).logpdf(y), rel=1e-12)


def test_better_features_have_more_evidence():
    figures = [logme(*drawn(60, 4, signal=signal)) for signal in (0.0, 0.5, 1.0, 2.0, 4.0)]
    assert figures == sorted(figures)


def test_features_in_another_unit_or_basis_have_the_same_evidence():
    features, labels = CASES["tall"]
    turned = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(0)).double())[0]
    for changed in (1e3 * features, features @ turned, torch.cat([features, torch.zeros(30, 3)], 1)):
        assert logme(changed, labels) == pytest.approx(logme(features, labels), rel=1e-9)


def test_labels_that_the_features_give_exactly_have_no_bound():
    labels = torch.arange(12) % 3
    assert logme(torch.eye(3)[labels], labels) == math.inf
    # a repeated example among fewer examples than features is such a case; without it there is a bound
    features, labels = CASES["wide"]
    assert math.isfinite(logme(features, labels))
    assert logme(torch.cat([features, features[:1]]), torch.cat([labels, labels[:1]])) == math.inf


def test_float32_far_from_zero_is_close_to_float64():
    features, labels = CASES["tall"]
    far = (features + 100).float()
    assert logme(far, labels) == pytest.approx(logme(far.double(), labels), rel=1e-12)
    assert logme(far, labels) == pytest.approx(logme(features + 100, labels), rel=1e-4)


def test_features_of_zeros_are_refused():
    with pytest.raises(ValueError, match="all 24 features are 0"):
        logme(torch.zeros(8, 3), torch.arange(8) % 2)
