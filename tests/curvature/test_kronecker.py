"""Kronecker-factored matrices against what they are when written out: products, proximal steps, parts, bad input."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from forgetting.curvature import Block, Diagonal, Eigen, Factors, Kronecker, restored
from tests.curvature.factored import (
    SHAPES,
    SIZES,
    by_hand,
    changes,
    factored,
    flat,
    matrix_of,
    semidefinite,
    written_out,
)

kinds = st.sampled_from(["kfac", "ekfac"])
seeds = st.integers(0, 10**6)
ranks = st.sampled_from([None, 1, 2])
matrices = st.builds(factored, kinds, seeds, ranks)
factors = st.one_of(st.sampled_from([0.0, 1e-14, 1.0, 1e6]), st.floats(1e-12, 1e6))
PARTS = [("linear.weight",), ("linear.bias",), ("conv.weight", "norm.weight"), ("conv.bias", "linear.bias"),
         ("turned.weight", "table.weight", "linear.weight", "linear.bias"), ("turned.bias",), ("norm.weight",)]
parts = st.sampled_from([tuple(SHAPES), *PARTS])


def within(matrix, layer):
    """The rows of a layer's block in the order of its own [groups, outputs, inputs]."""
    block = next(block for block in matrix.blocks if block.weight == f"{layer}.weight")
    numbers, start = {}, 0
    for name in matrix.names():
        size = math.prod(SHAPES[name])
        numbers[name] = torch.arange(start, start + size, dtype=torch.float64).reshape(SHAPES[name])
        start += size
    return block._packed(numbers).long().flatten()


@given(matrices)
def test_a_product_is_the_definition(matrix):
    whole = written_out(matrix)
    for layer in SIZES:
        rows = within(matrix, layer)
        torch.testing.assert_close(whole[rows][:, rows], by_hand(matrix, layer), rtol=1e-10, atol=1e-10)
        whole[rows.unsqueeze(1), rows] = 0
    rest = torch.cat([torch.zeros(len(whole) - 4, dtype=torch.float64), matrix.rest["norm.weight"]])
    torch.testing.assert_close(whole, torch.diag(rest))


@given(matrices, parts, seeds)
def test_the_quadratic_form_and_its_gradient(matrix, names, seed):
    part, delta = matrix.restricted(names), changes(seed)
    vector, whole = flat(delta, part.names()), written_out(part)
    value = float(vector @ whole @ vector)
    assert float(part.quadratic(delta)) == pytest.approx(value, rel=1e-10, abs=1e-12)
    live = {name: delta[name].requires_grad_() for name in part.names()}
    gradients = torch.autograd.grad(part.quadratic(live), list(live.values()))
    torch.testing.assert_close(flat(dict(zip(live, gradients, strict=True)), live), 2 * whole @ vector)


@given(matrices, parts)
def test_diagonal_trace_and_largest(matrix, names):
    part = matrix.restricted(names)
    whole = written_out(part)
    diagonal = part.diagonal()
    assert {name: value.shape for name, value in diagonal.items()} == {name: SHAPES[name] for name in part.names()}
    torch.testing.assert_close(flat(diagonal, part.names()), whole.diagonal(), rtol=1e-10, atol=1e-12)
    assert part.trace() == pytest.approx(float(whole.trace()), rel=1e-10)
    assert part.largest() == pytest.approx(float(torch.linalg.eigvalsh(whole)[-1]), rel=1e-9)


@given(matrices, st.sampled_from(PARTS))
def test_a_restriction_is_the_block(matrix, names):
    """A bias lies with its weight; each alone is still exactly its own block of F."""
    part, start, rows = matrix.restricted(names), 0, {}
    for name in matrix.names():
        rows[name] = range(start, start := start + math.prod(SHAPES[name]))
    assert set(part.names()) == set(names)
    chosen = [row for name in part.names() for row in rows[name]]
    torch.testing.assert_close(written_out(part), written_out(matrix)[chosen][:, chosen], rtol=1e-10, atol=1e-10)


@given(st.builds(factored, kinds, seeds), parts, seeds, st.one_of(factors, st.lists(factors, min_size=8, max_size=8)))
def test_retract_and_shrink_solve(matrix, names, seed, a):
    """z = DF(I + DF)⁻¹δ, D one factor or one a parameter: a bias may have another one than its weight."""
    part, delta = matrix.restricted(names), changes(seed)
    each = dict(zip(SHAPES, a, strict=True)) if isinstance(a, list) else dict.fromkeys(SHAPES, a)
    scale = torch.cat([torch.full((math.prod(SHAPES[name]),), each[name]) for name in part.names()]).double()
    whole, vector = scale.unsqueeze(1) * written_out(part), flat(delta, part.names())
    truth = torch.linalg.solve(torch.eye(len(whole), dtype=torch.float64) + whole, whole @ vector)
    given_a = each if isinstance(a, list) else a
    back = flat(part.retract(delta, given_a), part.names())
    assert float((back - truth).norm()) <= 1e-7 * float(truth.norm())
    shrunk = flat(part.shrink(delta, given_a), part.names())
    torch.testing.assert_close(shrunk + whole @ shrunk, vector, rtol=1e-6, atol=1e-6 * float(vector.norm()))
    as_tensors = {name: torch.tensor(value, dtype=torch.float64) for name, value in each.items()}
    torch.testing.assert_close(flat(part.retract(delta, as_tensors), part.names()), back, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["kfac", "ekfac"])
def test_small_factors_lose_no_digits(kind, dtype):
    """To first order the step is aFδ: a formula with 1 − 1/(1 + aλ) would round it to nothing."""
    matrix, delta = factored(kind), changes(1, dtype=dtype)
    names = matrix.names()
    for a in (1e-9, 1e-20, 1e-30):
        back, product = flat(matrix.retract(delta, a), names), flat(matrix.product(delta), names)
        torch.testing.assert_close(back / a, product, rtol=1e-5, atol=1e-5 * float(product.abs().max()))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("a", [1e12, 3e38, 1e300, math.inf])
@pytest.mark.parametrize("kind", ["kfac", "ekfac"])
@pytest.mark.parametrize("names", [tuple(SHAPES), ("linear.weight",), ("linear.bias",)])
def test_retract_is_finite_at_any_strength(dtype, a, kind, names):
    matrix, delta = factored(kind).restricted(names), changes(1, dtype=dtype)
    for factor in (a, {name: a if "weight" in name else 0.0 for name in SHAPES},
                   {name: a if "bias" in name else 1e-3 for name in SHAPES}):
        back = matrix.retract(delta, factor)
        assert all(torch.isfinite(value).all() and value.dtype in (torch.float32, torch.float64)
                   for value in back.values())
    assert all(torch.isfinite(value).all() for value in matrix.shrink(delta, a).values())


def test_an_infinite_pull_is_the_way_to_the_anchor_where_there_is_importance():
    matrix = factored("kfac")
    delta = changes(3)
    for name, value in matrix.retract(delta, 1e14).items():
        torch.testing.assert_close(value, delta[name], rtol=1e-6, atol=1e-6)
    nothing = matrix.scaled(0.0)
    assert not any(value.any() for value in nothing.retract(delta, 1e14).values())
    single = Kronecker([Block("table.weight", torch.Size([5, 2]), matrix_of("kfac", "table", 0, 1), None, True)])
    free = single.diagonal()["table.weight"] == 0
    assert not single.retract(delta, 1e300)["table.weight"][free].any()


def test_rounding_is_no_importance():
    """Directions of a singular factor to which only rounding gives a little importance stay free at any strength."""
    a = semidefinite(1, 12, 0, 1)
    free = torch.linalg.eigh(a[0]).eigenvectors[:, :11].T
    matrix = Kronecker([Block("w", torch.Size([11, 12]), Factors(a, semidefinite(1, 11, 1)))])
    assert float(matrix.retract({"w": free}, 1e200)["w"].norm()) < 1e-6


@given(matrices, st.floats(0, 1e3), seeds)
def test_scaled(matrix, c, seed):
    delta = changes(seed)
    torch.testing.assert_close(flat(matrix.scaled(c).product(delta), SHAPES), c * flat(matrix.product(delta), SHAPES))
    assert matrix.scaled(c).largest() == pytest.approx(c * matrix.largest(), rel=1e-9)


@given(matrices, seeds)
def test_plain_state_makes_the_same_matrix(matrix, seed):
    again, delta = restored(matrix.state_dict()), changes(seed)
    assert isinstance(again, Kronecker)
    assert all(torch.equal(again.product(delta)[name], value) for name, value in matrix.product(delta).items())


@given(matrices, seeds)
def test_names_that_the_matrix_lacks_are_ignored(matrix, seed):
    more = {**changes(seed), "new.head": torch.ones(5)}
    assert set(matrix.product(more)) == set(matrix.retract(more, 1.0)) == set(SHAPES) == set(matrix.names())


def test_no_names_at_all():
    empty = Kronecker([])
    assert float(empty.quadratic({})) == empty.largest() == empty.trace() == 0
    assert empty.product({}) == empty.retract({}, 1.0) == empty.diagonal() == {}


@pytest.mark.parametrize("kind", ["kfac", "ekfac"])
def test_neither_autocast_nor_half_precision_costs_digits(kind):
    matrix = factored(kind).to("cpu")
    with torch.autocast("cpu", torch.bfloat16):
        found = matrix.product(changes(0, dtype=torch.float32)), matrix.retract(changes(0, dtype=torch.float32), 0.5)
    for inside, outside in zip(found, (matrix.product(changes(0)), matrix.retract(changes(0), 0.5)), strict=True):
        torch.testing.assert_close(flat(inside, SHAPES), flat(outside, SHAPES), rtol=1e-5, atol=1e-5)
    assert all(value.dtype == torch.float64 for value in matrix.product(changes(0, dtype=torch.bfloat16)).values())


def test_a_parameter_is_covered_once():
    block = Block("w", torch.Size([2, 2]), Factors(torch.eye(2)[None], torch.eye(2)[None]))
    with pytest.raises(ValueError, match="'w' would be covered twice"):
        Kronecker([block], Diagonal({"w": torch.ones(2, 2)}))
    with pytest.raises(KeyError, match="does not cover 'v'"):
        Kronecker([block]).restricted(["v"])


@pytest.mark.parametrize(("make", "words"), [
    (lambda: Factors(torch.ones(1, 2, 3), torch.ones(1, 2, 2)), r"not \(1, 2, 3\) and \(1, 2, 2\)"),
    (lambda: Factors(torch.ones(2, 2, 2), torch.ones(1, 2, 2)), "outputs, outputs"),
    (lambda: Factors(-torch.eye(2)[None], torch.eye(2)[None]), "A holds negative"),
    (lambda: Factors(torch.eye(2)[None], torch.eye(2)[None] * math.nan), "G holds non-finite numbers"),
    (lambda: Eigen(None, torch.eye(2)[None], torch.ones(1, 3, 2)), r"needs Q_G of shape \(1, 3, 3\), not \(1, 2, 2\)"),
    (lambda: Eigen(torch.eye(3)[None], torch.eye(2)[None], torch.ones(1, 2, 2)), "needs Q_A of shape"),
    (lambda: Eigen(None, torch.eye(2)[None], -torch.ones(1, 2, 2)), "spectrum holds negative"),
    (lambda: Block("w", torch.Size([2, 3]), Factors(torch.eye(3)[None], torch.eye(2)[None]), "b"),
     r"'w' of shape \(2, 3\) does not fit a matrix over 1 groups of 2 outputs × 3 inputs with a bias"),
])
def test_what_does_not_fit_says_so(make, words):
    with pytest.raises(ValueError, match=words):
        make()
