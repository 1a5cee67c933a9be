"""Labels at their price: few columns for a sure model, a work list for the examples that need more, random signs."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from forgetting import fisher
from forgetting.fisher.columns import Columns, factored
from tests.cases import CASES, cut
from tests.fisher.estimates import estimate, reference


def covariance(p):
    return torch.diag_embed(p) - p.unsqueeze(-1) * p.unsqueeze(-2)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 6), st.integers(1, 3), st.integers(2, 7), st.sampled_from([1e-6, 1e-3, 0.1, 0.5]),
       st.floats(0.1, 30), st.integers(0, 999))
def test_columns_leave_out_no_more_than_they_may(examples, positions, classes, tolerance, sureness, seed):
    generator = torch.Generator().manual_seed(seed)
    p = (sureness * torch.randn(examples, positions, classes, generator=generator, dtype=torch.float64)).softmax(-1)
    p[0, 0] = 0
    columns = factored(p, tolerance)
    kept = torch.einsum("knpc,knpd->npcd", columns.vectors, columns.vectors)
    rest = covariance(p) - kept
    whole = float(covariance(p).diagonal(dim1=-2, dim2=-1).sum())
    assert -1e-12 <= float(rest.diagonal(dim1=-2, dim2=-1).sum()) <= tolerance * whole * (1 + 1e-9) + 1e-15
    assert float(torch.linalg.eigvalsh(rest).min()) >= -1e-9
    for n, count in enumerate(columns.counts.tolist()):
        assert not columns.vectors[count:, n].any()
        assert all(columns.vectors[k, n].any() for k in range(count))
    for k in range(len(columns.vectors)):
        assert int((columns.vectors[k] != 0).any(-1).sum(-1).max()) <= 1, "positions share a column: cross terms"


def test_no_tolerance_to_speak_of_is_exact():
    p = torch.randn(5, 1, 4, dtype=torch.float64).softmax(-1)
    columns = factored(p, 1e-14)
    torch.testing.assert_close(torch.einsum("knpc,knpd->npcd", columns.vectors, columns.vectors), covariance(p))


def test_saturated_probabilities_give_no_nan():
    p = torch.tensor([[[1.0, 0.0, 0.0]], [[1 - 1e-30, 1e-30, 0.0]], [[0.5, 0.5, 0.0]]])
    columns = factored(p, 1e-3)
    assert torch.isfinite(columns.vectors).all()
    assert columns.counts.tolist() == [0, 0, 1]


class TestWorkList:
    def columns(self, counts, most):
        vectors = torch.zeros(most, len(counts), 2)
        for n, count in enumerate(counts):
            vectors[:count, n] = n + 1
        return Columns(vectors, torch.tensor(counts))

    def test_one_unsure_example_goes_alone(self):
        columns = self.columns([1] * 15 + [6], 6)
        assert columns.shared() == 1
        ((examples, vectors),) = columns.left(1)
        assert examples.tolist() == [15] * 5
        assert vectors.shape == (5, 2)

    def test_outer_products_make_the_graph_cheap(self):
        """Squares that wait for the last column: more columns go through the graph before a list is worth its pass."""
        columns = self.columns([1] * 12 + [3] * 4, 3)
        assert columns.shared() == 1
        assert columns.shared(outer=True) == 3

    def test_equals_share_one_graph(self):
        assert self.columns([6] * 16, 6).shared() == 6

    def test_certain_examples_cost_nothing(self):
        assert self.columns([0] * 16, 0).shared() == 0
        assert list(self.columns([0] * 16, 0).left(0)) == []

    def test_the_list_is_cut_into_batches(self):
        columns = self.columns([4, 4, 0, 0], 4)
        assert [len(examples) for examples, _ in columns.left(0)] == [4, 4]


def sure_and_unsure():
    """Most examples are certain, two are not."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 5)).double()
    inputs = 6 * torch.randn(40, 4).double()
    inputs[3], inputs[17] = 0.01 * inputs[3], 0.02 * inputs[17]
    with torch.no_grad():
        model[2].weight *= 12
    return model, [(inputs[:24], torch.zeros(24).long()), (inputs[24:], torch.zeros(16).long())]


@pytest.mark.parametrize("tolerance", [1e-8, 1e-3, 0.05])
def test_what_is_dropped_is_only_ever_missing(tolerance):
    model, data = sure_and_unsure()
    whole = fisher.diagonal(model, data)
    part = fisher.diagonal(model, data, tolerance=tolerance)
    for name in whole:
        assert (whole[name] - part[name]).min() >= -1e-12 * whole[name].max()
    assert part.trace() <= whole.trace()
    if tolerance < 1e-6:
        assert part.trace() == pytest.approx(whole.trace(), rel=1e-5)


def test_the_work_list_is_used_and_cheaper():
    model, data = sure_and_unsure()
    seen = []
    model.register_forward_hook(lambda module, inputs, output: seen.append(len(output)))
    fisher.diagonal(model, data, tolerance=1e-3)
    assert any(size not in (2, 3, 1, 16, 24) for size in seen), "no batch of the work list came by"


class TestSigned:
    """One random sign a position: unbiased at a backward a class, where exact labels need one a class and position."""

    @pytest.mark.parametrize("name", ["positions", "gaussian_positions", "tied_weights"])
    def test_it_is_unbiased(self, name):
        truth = reference(name, "exact", torch.float64)
        draws = [estimate(CASES[name], "signed", None, torch.float64, generator=torch.Generator().manual_seed(seed))
                 for seed in range(300)]
        for key, value in truth.items():
            found = torch.stack([draw[key] for draw in draws])
            error = (found.mean(0) - value).abs()
            assert (error <= 5 * found.std(0) / len(draws) ** 0.5 + 1e-9 * value.max()).all(), key

    def test_the_mean_of_wrong_signs_would_be_seen(self):
        """Without signs the cross terms stay: all positions in one backward."""
        truth = reference("positions", "exact", torch.float64)["0.weight"]
        found = estimate(CASES["positions"], "empirical", None, torch.float64)["0.weight"]
        assert float((found - truth).norm() / truth.norm()) > 0.05

    @pytest.mark.parametrize("name", ["mlp", "conv"])
    def test_with_one_position_it_is_exact(self, name):
        truth = reference(name, "exact", torch.float64)
        found = estimate(CASES[name], "signed", 7, torch.float64)
        for key, value in truth.items():
            torch.testing.assert_close(found[key], value, rtol=1e-9, atol=1e-12)

    def test_the_batch_size_does_not_matter(self):
        one, seven = (estimate(CASES["positions"], "signed", size, torch.float64) for size in (1, None))
        for key, value in one.items():
            torch.testing.assert_close(seven[key], value)

    def test_its_standard_error_is_reported(self):
        model, batch = CASES["positions"].build(torch.float64)
        found = fisher.diagonal(model, cut(batch, 1), labels="signed", likelihood=fisher.Categorical())
        assert found.standard_error is not None
        assert 0 < found.standard_error < found.trace()

    def test_a_whole_vocabulary_is_too_much(self):
        model = nn.Linear(4, 300)
        with pytest.raises(ValueError, match=r"300 backwards.*use labels=\"sampled\""):
            fisher.diagonal(model, [(torch.randn(2, 3, 4), torch.zeros(2, 3).long())], labels="signed",
                            likelihood=fisher.Categorical())


def test_sureness_is_worth_its_backwards():
    """How many backwards a batch of a sure and of an unsure model takes."""
    sure = torch.tensor([[[0.999, 0.0005, 0.0005]]]).expand(8, 1, 3)
    unsure = torch.full((8, 1, 3), 1 / 3)
    assert int(factored(sure, 0.3).counts.sum()) < int(factored(unsure, 0.3).counts.sum())
