"""What every matrix promises, on drawn values: products, quadratic forms, proximal steps, blends."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from forgetting.curvature import Diagonal, Identity, NotFinite, restored

SHAPES = {"weight": (2, 3), "bias": (3,), "scale": ()}


def tensors(low, high, dtype=torch.float64):
    """A tensor a name, entries drawn between the bounds, zero and the bounds among them."""
    entry = st.one_of(st.sampled_from([0.0, low, high]), st.floats(low, high, allow_subnormal=False))

    def shaped(values):
        rest = iter(values)
        return {name: torch.tensor([next(rest) for _ in range(math.prod(shape))], dtype=dtype).reshape(shape)
                for name, shape in SHAPES.items()}

    return st.lists(entry, min_size=10, max_size=10).map(shaped)


deltas = tensors(-1e3, 1e3)
matrices = st.one_of(
    tensors(0.0, 1e3).map(Diagonal),
    st.lists(st.floats(0, 1e3), min_size=3, max_size=3).map(lambda s: Identity(dict(zip(SHAPES, s, strict=True)))),
)
factors = st.one_of(st.sampled_from([0.0, 1.0, 1e12]), st.floats(0, 1e12))


def dot(left, right):
    return sum(float((left[name] * right[name]).sum()) for name in left)


def dense(matrix, name):
    """The diagonal as numbers of the parameter's shape."""
    return matrix.diagonal()[name].double().expand(SHAPES[name])


@given(matrices, deltas)
def test_the_quadratic_form_is_delta_times_product(matrix, delta):
    assert float(matrix.quadratic(delta)) == pytest.approx(dot(delta, matrix.product(delta)), rel=1e-12, abs=1e-9)
    assert float(matrix.quadratic(delta)) >= 0
    assert float(matrix.quadratic({name: value * 0 for name, value in delta.items()})) == 0


@given(matrices, deltas)
def test_the_product_is_elementwise(matrix, delta):
    for name, value in matrix.product(delta).items():
        assert torch.allclose(value, dense(matrix, name) * delta[name], rtol=1e-12, atol=0)


@given(matrices, deltas)
def test_the_gradient_of_the_quadratic_form_is_twice_the_product(matrix, delta):
    live = {name: value.clone().requires_grad_() for name, value in delta.items()}
    gradients = torch.autograd.grad(matrix.quadratic(live), list(live.values()))
    for (_, product), gradient in zip(matrix.product(delta).items(), gradients, strict=True):
        assert torch.allclose(gradient, 2 * product, rtol=1e-12, atol=0)


@given(matrices, deltas, factors)
def test_shrink_inverts_one_plus_a_f(matrix, delta, a):
    """(I + aF)·shrink(δ) = δ, and shrink + retract = δ."""
    shrunk, back = matrix.shrink(delta, a), matrix.retract(delta, a)
    for name in SHAPES:
        f = dense(matrix, name)
        assert torch.allclose(back[name], delta[name] * (a * f / (1 + a * f)), rtol=1e-12, atol=0)
        assert torch.allclose(shrunk[name], delta[name] / (1 + a * f), rtol=1e-9, atol=1e-12 * 1e3)
        assert (back[name][f.broadcast_to(back[name].shape) == 0] == 0).all()


@given(matrices, deltas, st.lists(factors, min_size=3, max_size=3))
def test_a_factor_a_parameter(matrix, delta, values):
    each = dict(zip(SHAPES, values, strict=True))
    together = matrix.retract(delta, each)
    as_tensors = matrix.retract(delta, {name: torch.tensor(a, dtype=torch.float64) for name, a in each.items()})
    for name, a in each.items():
        assert torch.equal(together[name], matrix.retract(delta, a)[name])
        assert torch.allclose(together[name], as_tensors[name], rtol=1e-12, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("a", [1e12, 1e30, 3e38, 1e300, math.inf])
@pytest.mark.parametrize("kind", ["diagonal", "identity"])
def test_retract_is_finite_at_any_strength(dtype, a, kind):
    """The prox of an infinitely strong pull is the anchor itself: back = δ where F > 0, exactly 0 where F = 0."""
    largest = torch.finfo(dtype).max
    delta = {"w": torch.tensor([1.0, -largest, 0.0, largest, 3.0], dtype=dtype)}
    importance = torch.tensor([1.0, largest, 1.0, 1.0, 0.0], dtype=dtype)
    matrix = Diagonal({"w": importance}) if kind == "diagonal" else Identity({"w": 1.0})
    back = matrix.retract(delta, a)["w"]
    assert back.dtype == torch.float32
    assert torch.isfinite(back).all()
    assert torch.isfinite(matrix.shrink(delta, a)["w"]).all()
    assert torch.allclose(back[:4], delta["w"][:4].float(), rtol=1e-6)
    assert float(back[4]) == (0.0 if kind == "diagonal" else pytest.approx(3.0))


@given(tensors(0.0, 1e3), tensors(0.0, 1e3), st.floats(0, 1), deltas)
def test_blend_is_a_weighted_sum(old, new, decay, delta):
    blended = Diagonal(old).blend(Diagonal(new), decay)
    for name in SHAPES:
        assert torch.allclose(blended[name], decay * old[name] + new[name], rtol=1e-12, atol=0)
    sums = decay * float(Diagonal(old).quadratic(delta)) + float(Diagonal(new).quadratic(delta))
    assert float(blended.quadratic(delta)) == pytest.approx(sums, rel=1e-9, abs=1e-9)


def test_blend_counts_a_name_that_one_lacks_as_zero():
    old, new = Diagonal({"a": torch.ones(2), "b": torch.ones(2)}), Diagonal({"b": torch.ones(2), "c": torch.ones(2)})
    blended = old.blend(new, 0.5)
    assert {name: value.tolist() for name, value in blended.items()} == {
        "a": [0.5, 0.5], "b": [1.5, 1.5], "c": [1.0, 1.0]}
    assert [value.tolist() for value in old.values()] == [[1, 1], [1, 1]], "the old matrix was changed"
    assert Identity({"a": 2.0}).blend(Identity({"b": 1.0}), 0.5).scales == {"a": 1.0, "b": 1.0}


@pytest.mark.parametrize(("left", "right"), [
    (Diagonal({"a": torch.ones(1)}), Identity({"a": 1.0})), (Identity({"a": 1.0}), Diagonal({"a": torch.ones(1)}))])
def test_matrices_of_two_kinds_do_not_blend(left, right):
    with pytest.raises(TypeError, match="blends with another"):
        left.blend(right, 1.0)


@given(matrices, st.floats(0, 1e3), deltas)
def test_scaled(matrix, c, delta):
    expected = c * float(matrix.quadratic(delta))
    assert float(matrix.scaled(c).quadratic(delta)) == pytest.approx(expected, rel=1e-9, abs=1e-9)
    assert matrix.scaled(c).largest() == pytest.approx(c * matrix.largest(), rel=1e-9)


@given(tensors(0.0, 1e3))
def test_trace_and_largest(values):
    flat = torch.cat([value.flatten() for value in values.values()])
    assert Diagonal(values).trace() == pytest.approx(float(flat.sum()), rel=1e-12)
    assert Diagonal(values).largest() == float(flat.max())


@given(matrices, deltas)
def test_a_restriction_is_a_block(matrix, delta):
    block = matrix.restricted(["bias", "scale"])
    assert block.names() == ("bias", "scale")
    for name in block.names():
        assert torch.equal(block.product(delta)[name], matrix.product(delta)[name])


@given(matrices, deltas)
def test_plain_state_makes_the_same_matrix(matrix, delta):
    again = restored(matrix.state_dict())
    assert type(again) is type(matrix)
    assert all(torch.equal(again.product(delta)[name], value) for name, value in matrix.product(delta).items())


def test_a_state_of_an_unknown_class():
    with pytest.raises(ValueError, match=r"'Banded'; known are .*Diagonal, Identity"):
        restored({"curvature": "Banded"})


@pytest.mark.parametrize("bad", [-1.0, math.nan, math.inf])
def test_entries_that_are_no_importance(bad):
    kind, word = (ValueError, "negative") if bad < 0 else (NotFinite, "non-finite")
    with pytest.raises(kind, match=rf"importance of 'head\.bias' holds {word}"):
        Diagonal({"body": torch.ones(2), "head.bias": torch.tensor([1.0, bad])})
    with pytest.raises(ValueError, match=r"scale of 'head\.bias' is .*finite and at least 0"):
        Identity({"head.bias": bad})


@given(matrices, deltas)
def test_names_that_the_matrix_lacks_are_ignored(matrix, delta):
    more = {**delta, "new.head": torch.ones(5)}
    assert float(matrix.quadratic(more)) == float(matrix.quadratic(delta))
    assert set(matrix.product(more)) == set(matrix.retract(more, 1.0)) == set(SHAPES)


def test_no_names_at_all():
    for empty in (Diagonal({}), Identity({})):
        assert float(empty.quadratic({})) == 0
        assert empty.product({}) == {}
        assert empty.largest() == 0
