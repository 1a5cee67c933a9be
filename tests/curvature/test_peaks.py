"""The largest eigenvalue of each block: exact where it is cheap, never too large where it is not."""

import pytest
import torch

from forgetting.curvature import Block, Diagonal, Factors, Identity, Kronecker
from forgetting.curvature.base import Curvature
from tests.curvature.factored import factored


def test_a_diagonal_has_a_peak_a_parameter():
    values = {"a": torch.tensor([1.0, 5.0]), "b": torch.tensor(2.0), "empty": torch.zeros(0)}
    assert Diagonal(values).peaks() == {("a",): 5.0, ("b",): 2.0, ("empty",): 0.0}
    assert Identity({"a": 3.0, "b": 0.0}).peaks() == {("a",): 3.0, ("b",): 0.0}
    assert Diagonal({}).peaks() == Identity({}).peaks() == {}


@pytest.mark.parametrize("kind", ["kfac", "ekfac"])
@pytest.mark.parametrize("seed", range(5))
def test_a_kronecker_has_a_peak_a_block(kind, seed):
    matrix = factored(kind, seed, None)
    peaks = matrix.peaks()
    assert {name for names in peaks for name in names} == set(matrix.names())
    for block in matrix.blocks:
        largest = block.matrix.largest()
        assert 0.8 * largest < peaks[block.names] <= largest * (1 + 1e-9)
        assert peaks[block.names] >= float(block.matrix.diagonal().max()) * (1 - 1e-9)
    assert peaks[("norm.weight",)] == float(matrix.rest["norm.weight"].max())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e12])
def test_factors_of_any_scale(dtype, scale):
    a = scale * torch.tensor([[2.0, 1.0], [1.0, 2.0]], dtype=dtype)[None]
    matrix = Kronecker([Block("w", torch.Size([1, 2]), Factors(a, torch.ones(1, 1, 1, dtype=dtype)))])
    assert matrix.peaks()[("w",)] == pytest.approx(3 * scale, rel=1e-2)


def test_any_other_matrix_is_one_block():
    matrix = Diagonal({"a": torch.ones(1), "b": torch.full((2,), 4.0)})
    assert Curvature.peaks(matrix) == {("a", "b"): 4.0}
