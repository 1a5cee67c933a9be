"""The penalty on the product: the dense formula, finite differences, and never more than a tile of memory."""

import pytest
import torch

from benchmarks.speed import memory
from forgetting.adapters import tiles
from forgetting.adapters.tiles import half_square
from tests.adapters.models import dense, pair

SHAPES = [{}, {"transposed": True}, {"window": (3, 2)}, {"window": (1, 1)}]


@pytest.mark.parametrize("rows", [1, 3, 7, 100])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_value_and_gradient_are_the_dense_formulas(shape, rows, monkeypatch):
    factors, importance = pair(7, 5, 3, **shape)
    monkeypatch.setattr(tiles, "TILE", {"cpu": rows * factors.down[0].numel()})
    value, expected = half_square(factors, importance), dense(factors, importance)
    torch.testing.assert_close(value, expected, rtol=1e-13, atol=0)
    gradients = torch.autograd.grad(3.0 * value, [factors.up, factors.down])
    for found, right in zip(gradients, torch.autograd.grad(3.0 * expected, [factors.up, factors.down]), strict=True):
        assert found.shape == right.shape
        torch.testing.assert_close(found, right, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_gradient_by_finite_differences(shape):
    factors, importance = pair(4, 3, 2, **shape)
    value = half_square(factors, importance)
    for tensor, gradient in zip((factors.up, factors.down), torch.autograd.grad(value, [factors.up, factors.down]),
                                strict=True):
        for place in range(tensor.numel()):
            ends = []
            for side in (1, -1):
                with torch.no_grad():
                    tensor.view(-1)[place] += side * 1e-6
                    ends.append(half_square(factors, importance).item())
                    tensor.view(-1)[place] -= side * 1e-6
            assert gradient.reshape(-1)[place].item() == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-6, abs=1e-8)


def test_no_dense_copy_is_made(monkeypatch):
    factors, importance = pair(2048, 512, 4, dtype=torch.float32)
    monkeypatch.setattr(tiles, "TILE", {"cpu": 16 * 512})

    def tiled():
        half_square(factors, importance).backward()

    def whole():
        dense(factors, importance).backward()

    bytes_of_the_weight = 4 * 2048 * 512
    small = sum(4 * part.numel() for part in (factors.up, factors.down))
    allowed = 4 * 4 * 16 * 512 + 6 * small
    assert allowed < bytes_of_the_weight / 10
    tiled()
    assert memory.peak(tiled) <= allowed
    assert memory.peak(whole) > 2 * bytes_of_the_weight


@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-2), (torch.float16, 2e-3)])
def test_fewer_bits_are_computed_in_float32(dtype, error):
    factors, importance = pair(40, 30, 4, dtype=dtype)
    value = half_square(factors, importance.float())
    assert value.dtype == torch.float32
    exact = type(factors)(factors.up.detach().double().requires_grad_(), factors.down.detach().double(),
                          factors.scale, False, factors.shape)
    right = dense(exact, importance.double())
    assert value.item() == pytest.approx(right.item(), rel=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(half_square(factors, importance.float()), value)
    value.backward()
    right.backward()
    assert factors.up.grad.dtype == dtype
    scale = exact.up.grad.abs().max()
    assert ((factors.up.grad.double() - exact.up.grad).abs().max() / scale).item() < error


def test_the_gradient_is_known_once_and_for_the_factors_as_they_were():
    factors, importance = pair(4, 3, 2)
    value = half_square(factors, importance)
    with pytest.raises(RuntimeError, match="differentiable once"):
        torch.autograd.grad(value, factors.up, create_graph=True)
    value = half_square(factors, importance)
    with torch.no_grad():
        factors.up.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        value.backward()
