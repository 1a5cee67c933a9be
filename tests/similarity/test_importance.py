"""The Fisher distance against matrices written out, and its ends."""

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

import forgetting.fisher
from forgetting.curvature import Diagonal, Identity
from forgetting.similarity import fisher_distance


def drawn(seed):
    generator = torch.Generator().manual_seed(seed)
    return Diagonal({"w": torch.rand(3, 2, generator=generator), "b": torch.rand(2, generator=generator)})


def slow(one, other):
    """½ tr(F̂₁ + F̂₂ − 2(F̂₁F̂₂)^½) of whole matrices."""
    matrices = [np.diag(torch.cat([matrix[name].double().flatten() for name in ("w", "b")]).numpy())
                for matrix in (one, other)]
    first, second = (matrix / np.trace(matrix) for matrix in matrices)
    return np.trace(first + second - 2 * sqrtm(first @ second).real) / 2


def test_it_is_its_formula():
    one, other = drawn(0), drawn(1)
    assert fisher_distance(one, other) == pytest.approx(slow(one, other), rel=1e-10)
    assert fisher_distance(one, other) == pytest.approx(fisher_distance(other.scaled(9), one), rel=1e-6)


def test_the_ends_of_its_range():
    one = drawn(0)
    assert fisher_distance(one, one.scaled(1e-6)) < 1e-12
    apart = [Diagonal({"w": torch.tensor(values)}) for values in ([1.0, 2.0, 0.0], [0.0, 0.0, 5.0])]
    assert fisher_distance(*apart) == pytest.approx(1)


def test_of_estimates():
    model = torch.nn.Linear(4, 2, bias=False).requires_grad_()
    data = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
    masks = torch.tensor([1.0, 1.0, 0.0, 0.0]), torch.tensor([0.0, 0.0, 1.0, 1.0])
    labels = torch.arange(40) % 2
    first, second = (forgetting.fisher.diagonal(model, [(data * mask, labels)]) for mask in masks)
    both = forgetting.fisher.diagonal(model, [(data, labels)])
    assert fisher_distance(first, second) == pytest.approx(1)
    assert 0.05 < fisher_distance(first, both) < 0.6


def test_what_it_cannot_compare():
    one = drawn(0)
    with pytest.raises(TypeError, match="two Diagonal matrices, got a Identity"):
        fisher_distance(one, Identity({"w": 1.0, "b": 1.0}))
    with pytest.raises(ValueError, match="other parameters: b in one of them only"):
        fisher_distance(one, one.restricted(["w"]))
    with pytest.raises(ValueError, match=r"'b' has the shapes \(2,\) and \(3,\): a head of another size"):
        fisher_distance(one, Diagonal({"w": one["w"], "b": torch.ones(3)}))
    with pytest.raises(ValueError, match="no weight matters"):
        fisher_distance(one, one.scaled(0.0))
