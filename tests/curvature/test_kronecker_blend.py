"""Blends of Kronecker-factored matrices: the nearest one, its error, and what can be blended with what."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from forgetting.curvature import Block, Diagonal, Eigen, Factors, Identity, Kronecker
from tests.curvature.factored import SHAPES, factored, matrix_of, orthonormal, semidefinite, written_out

seeds = st.integers(0, 10**6)
decays = st.one_of(st.sampled_from([0.0, 1.0]), st.floats(1e-6, 1.0))
kinds = st.sampled_from(["kfac", "ekfac"])
PAIR = ("linear.weight", "linear.bias")


def layer(kind, seed, rank=None):
    """A linear map with its bias as a matrix of its own."""
    return Kronecker([Block("linear.weight", torch.Size([3, 2]), matrix_of(kind, "linear", seed, rank), "linear.bias")])


def spread(matrix, names=SHAPES):
    """Written out over the given names in their order, zeros for what it does not cover."""
    sizes = {name: math.prod(SHAPES[name]) for name in names}
    starts = dict(zip(names, torch.tensor([0, *sizes.values()]).cumsum(0).tolist(), strict=False))
    rows = [row for name in matrix.names() for row in range(starts[name], starts[name] + sizes[name])]
    whole = torch.zeros(sum(sizes.values()), sum(sizes.values()), dtype=torch.float64)
    whole[torch.tensor(rows).unsqueeze(1), torch.tensor(rows)] = written_out(matrix)
    return whole


def nearest_rank_one(whole, outputs, inputs):
    """The distance of the best Kronecker product of any kind: singular values of the rearranged matrix."""
    order = whole.view(outputs, inputs, outputs, inputs).permute(0, 2, 1, 3).reshape(outputs**2, inputs**2)
    return float(torch.linalg.svdvals(order)[1:].norm())


def by_columns(matrix):
    """Written out with rows [outputs, inputs], the bias the last input."""
    order = torch.tensor([0, 1, 6, 2, 3, 7, 4, 5, 8])
    return spread(matrix, PAIR)[order][:, order]


@given(seeds, seeds, decays, st.sampled_from([None, 1, 2]))
def test_the_nearest_kronecker_product(old_seed, new_seed, decay, rank):
    old, new = layer("kfac", old_seed, rank), layer("kfac", new_seed)
    total = decay * by_columns(old) + by_columns(new)
    blend = old.blend(new, decay)
    distance = float((total - by_columns(blend)).norm())
    assert distance == pytest.approx(nearest_rank_one(total, 3, 3), abs=1e-7 * float(total.norm()))
    assert blend.distances["linear.weight"] == pytest.approx(distance, abs=1e-7 * float(total.norm()))
    assert blend.errors.get("linear.weight", 0.0) == pytest.approx(
        distance / float(by_columns(blend).norm()), abs=1e-7)


@given(seeds, seeds, st.floats(0.01, 1.0))
def test_its_coefficients_are_the_best_and_not_negative(old_seed, new_seed, decay):
    """Against a search over the span of the factors, both coefficients of either sign."""
    old, new = (layer("kfac", seed).blocks[0].matrix for seed in (old_seed, new_seed))
    blend = layer("kfac", old_seed).blend(layer("kfac", new_seed), decay)
    total = decay * torch.kron(old.g[0], old.a[0]) + torch.kron(new.g[0], new.a[0])
    angle = torch.linspace(0, torch.pi, 201, dtype=torch.float64)[:, None, None]
    spans = [torch.stack([one[0] / one.norm(), two[0] / two.norm()]) for one, two in ((old.a, new.a), (old.g, new.g))]
    choices = [angle.cos() * span[0] + angle.sin() * span[1] for span in spans]
    inner = torch.einsum("mij,nkl,kilj->mn", *choices, total.view(3, 3, 3, 3))
    sizes = choices[0].flatten(1).norm(dim=1)[:, None] * choices[1].flatten(1).norm(dim=1)
    searched = float((total.square().sum() - (inner / sizes).square().max()).clamp(min=0).sqrt())
    assert blend.distances["linear.weight"] <= searched * (1 + 1e-9) + 1e-9 * float(total.norm())
    found = blend.blocks[0].matrix
    for mine, span in ((found.a[0], spans[0]), (found.g[0], spans[1])):
        coefficients = torch.linalg.lstsq(span.flatten(1).T, mine.flatten()).solution
        assert float(coefficients.min()) >= -1e-9 * float(coefficients.abs().max())


@given(seeds, seeds, decays, kinds, kinds)
def test_a_blend_with_a_spectrum_keeps_trace_and_says_its_distance(old_seed, new_seed, decay, one, other):
    old, new = layer(one, old_seed), layer("ekfac" if one == "kfac" else other, new_seed)
    total, blend = decay * by_columns(old) + by_columns(new), old.blend(new, decay)
    assert isinstance(blend.blocks[0].matrix, Eigen)
    assert blend.trace() == pytest.approx(float(total.trace()), rel=1e-9)
    distance = float((total - by_columns(blend)).norm())
    assert blend.distances["linear.weight"] == pytest.approx(distance, abs=1e-7 * float(total.norm()))
    assert distance <= float(total.norm())
    for kept in (old, new):  # no worse than the sum's diagonal in either one's eigenvectors
        eigen = kept.blocks[0].matrix.eigen
        vectors = torch.kron(eigen.q_g[0].contiguous(), eigen.q_a[0].contiguous())
        seen = (vectors.T @ total @ vectors).diagonal()
        assert distance**2 <= float(total.square().sum() - seen.square().sum()) + 1e-9 * float(total.square().sum())


@given(seeds, decays)
def test_matrices_with_the_same_vectors_add_up_exactly(seed, decay):
    one, two = matrix_of("ekfac", "linear", seed), matrix_of("ekfac", "linear", seed + 1)
    two = Eigen(one.q_a, one.q_g, two.spectrum)
    old, new = (Kronecker([Block("linear.weight", torch.Size([3, 2]), matrix, "linear.bias")]) for matrix in (one, two))
    blend = old.blend(new, decay)
    torch.testing.assert_close(by_columns(blend), decay * by_columns(old) + by_columns(new))
    assert blend.distances["linear.weight"] <= 1e-6 * two.norm() + 1e-6 * one.norm()
    factors = layer("kfac", seed)
    twice = factors.blend(factors.scaled(3.0), decay)
    torch.testing.assert_close(by_columns(twice), (decay + 3) * by_columns(factors))
    assert twice.distances["linear.weight"] <= 1e-12 * twice.blocks[0].matrix.norm()


@given(kinds, seeds, seeds, decays)
def test_every_kind_of_layer_blends(kind, old_seed, new_seed, decay):
    old, new = factored(kind, old_seed), factored(kind, new_seed)
    blend, total = old.blend(new, decay), decay * spread(old) + spread(new)
    assert set(blend.names()) == set(SHAPES)
    wrong = sum(distance**2 for distance in blend.distances.values())
    assert float((spread(blend) - total).square().sum()) == pytest.approx(wrong, abs=1e-6 * float(total.square().sum()))
    torch.testing.assert_close(blend.rest["norm.weight"], decay * old.rest["norm.weight"] + new.rest["norm.weight"])
    assert (blend.examples, blend.labels, blend.routes) == (7, "exact", dict.fromkeys(SHAPES, kind))


@pytest.mark.parametrize("kind", ["kfac", "ekfac"])
@pytest.mark.parametrize(("names", "more"), [
    (PAIR[:1], tuple(SHAPES)), (tuple(SHAPES), PAIR[:1]), (PAIR[:1], PAIR[:1]), (PAIR[1:], PAIR[1:]),
    (("conv.weight",), PAIR), (("norm.weight", "table.weight"), ("table.weight", "linear.bias")),
])
def test_what_only_one_of_them_covers_counts_as_zero_in_the_other(kind, names, more):
    """A bias that is frozen in one task only: its row and column are zero there."""
    old, new = factored(kind, 1).restricted(names), factored(kind, 2).restricted(more)
    blend, total = old.blend(new, 0.5), 0.5 * spread(old) + spread(new)
    assert set(blend.names()) == {*names, *more}
    wrong = sum(distance**2 for distance in blend.distances.values())
    assert float((spread(blend) - total).square().sum()) == pytest.approx(wrong, abs=1e-6 * float(total.square().sum()))


@given(st.lists(seeds, min_size=3, max_size=5), st.floats(0.1, 1.0), kinds)
def test_the_distance_of_a_chain_of_blends_is_a_bound(tasks, decay, kind):
    blend, total = layer(kind, tasks[0]), by_columns(layer(kind, tasks[0]))
    for seed in tasks[1:]:
        blend, total = blend.blend(layer(kind, seed), decay), decay * total + by_columns(layer(kind, seed))
    distance = float((total - by_columns(blend)).norm())
    assert distance <= blend.distances["linear.weight"] + 1e-7 * float(total.norm())
    assert blend.scaled(2.0).errors == pytest.approx(blend.errors)
    assert distance <= blend.errors.get("linear.weight", 0.0) * blend.blocks[0].matrix.norm() * (1 + 1e-7) + 1e-9


def test_float32_blends_near_float64():
    halves = [Factors(*(value.float() for value in matrix_of("kfac", "linear", seed).tensors().values()))
              for seed in (1, 2)]
    old, new = (Kronecker([Block("linear.weight", torch.Size([3, 2]), matrix, "linear.bias")]) for matrix in halves)
    truth = layer("kfac", 1).blend(layer("kfac", 2), 0.7)
    blend = old.blend(new, 0.7)
    assert blend.blocks[0].matrix.dtype == torch.float32
    torch.testing.assert_close(by_columns(blend), by_columns(truth), rtol=1e-5, atol=1e-5)
    assert blend.errors["linear.weight"] == pytest.approx(truth.errors["linear.weight"], rel=1e-4)


def test_vectors_that_differ_by_rounding_only_have_no_distance():
    """In float32 they are not quite orthonormal, which must not pass for a distance."""
    one = matrix_of("ekfac", "linear", 1)
    rounded = Eigen(one.q_a.float(), one.q_g.float(), one.spectrum.float())
    old, new = (Kronecker([Block("linear.weight", torch.Size([3, 2]), matrix, "linear.bias")])
                for matrix in (rounded, one))
    assert old.blend(new, 0.5).errors.get("linear.weight", 0.0) < 1e-6


def test_decay_forgets_distances_with_the_matrices():
    first = layer("kfac", 1).blend(layer("kfac", 2), 1.0)
    exact = layer("kfac", 1).blend(layer("kfac", 2), 1.0)
    exact.distances.clear()
    blends = [start.blend(layer("kfac", 3), 0.25).distances["linear.weight"] for start in (first, exact)]
    assert blends[0] - blends[1] == pytest.approx(0.25 * first.distances["linear.weight"])


def test_old_and_new_stay_as_they_were():
    old, new = factored("kfac", 1), factored("ekfac", 2)
    before = spread(old), spread(new)
    old.blend(new, 0.3)
    assert torch.equal(spread(old), before[0])
    assert torch.equal(spread(new), before[1])


def test_an_unused_parameter_may_have_factors_in_the_other_task():
    new, factors = layer("kfac", 1), matrix_of("kfac", "linear", 1)
    unused = Kronecker([], Diagonal({name: torch.zeros(SHAPES[name]) for name in PAIR}))
    for blend in (unused.blend(new, 1.0), new.blend(unused, 1.0)):
        torch.testing.assert_close(by_columns(blend), by_columns(new))
    used = Kronecker([], Diagonal({"linear.bias": torch.ones(3)}))
    with pytest.raises(ValueError, match=r"'linear\.bias' has factors in one matrix and a diagonal in the other"):
        used.blend(new, 1.0)
    with pytest.raises(ValueError, match="has factors in one matrix and a diagonal in the other"):
        new.blend(used, 1.0)
    assert factors.size == (1, 3, 3)


def test_what_does_not_blend():
    with pytest.raises(TypeError, match="blends with another Kronecker, not with Diagonal"):
        layer("kfac", 0).blend(Diagonal({"linear.weight": torch.ones(3, 2)}), 1.0)
    with pytest.raises(TypeError, match="blends with another Diagonal, not with Kronecker"):
        Diagonal({"linear.weight": torch.ones(3, 2)}).blend(layer("kfac", 0), 1.0)
    with pytest.raises(TypeError, match="not with Identity"):
        layer("kfac", 0).blend(Identity({"linear.weight": 1.0}), 1.0)
    other = Kronecker([Block("linear.weight", torch.Size([2, 3]), matrix_of("kfac", "turned", 0), "linear.bias", True)])
    with pytest.raises(ValueError, match=r"'linear\.weight' that differ in shape or bias"):
        layer("kfac", 0).blend(other, 1.0)
    table = Kronecker([Block("w", torch.Size([2, 3]), Factors(torch.ones(1, 3), semidefinite(1, 2, 0)))])
    dense = Kronecker([Block("w", torch.Size([2, 3]), Eigen(orthonormal(1, 3, 0), orthonormal(1, 2, 0),
                                                           torch.ones(1, 2, 3)))])
    with pytest.raises(ValueError, match="one block is a look-up's"):
        table.blend(dense, 1.0)
