"""Merging by Fisher information: the closed form, what nothing decides, and states that do not fit their matrices."""

import copy

import pytest
import torch
from torch import nn

from forgetting import fisher
from forgetting.averaging import fisher_merge, interpolate
from forgetting.curvature import Anchored, Diagonal, Identity
from tests.averaging.test_interpolation import network, same, state


def importances(state, seed, dtype=torch.float64):
    """A random diagonal over the weights of a state, over five powers of ten."""
    generator = torch.Generator().manual_seed(seed)
    return Diagonal({name: 10 ** (-5 * torch.rand(value.shape, generator=generator, dtype=dtype))
                     for name, value in state.items() if name.endswith((".weight", ".bias"))})


def double(number):
    return {name: value.double() if value.is_floating_point() else value
            for name, value in state(network(number)).items()}


@pytest.mark.parametrize("weights", [None, [0.5, 3.0, 1.0]])
def test_the_merged_weights_minimise_the_sum_of_the_quadratics(weights):
    states = [double(seed) for seed in (1, 2, 3)]
    matrices = [importances(states[0], seed) for seed in (4, 5, 6)]
    merged = fisher_merge(states, matrices, weights)
    for name in matrices[0]:
        size = states[0][name].numel()
        matrix, right = torch.zeros(size, size, dtype=torch.float64), torch.zeros(size, dtype=torch.float64)
        for weight, values, importance in zip(weights or [1.0] * 3, states, matrices, strict=True):
            matrix += weight * torch.diag(importance[name].flatten())
            right += weight * importance[name].flatten() * values[name].flatten()
        expected = torch.linalg.solve(matrix, right).reshape(states[0][name].shape)
        torch.testing.assert_close(merged[name], expected, rtol=1e-12, atol=1e-14)


def test_every_entry_lies_between_the_models():
    states = [double(seed) for seed in (1, 2, 3)]
    merged = fisher_merge(states, [importances(states[0], seed) for seed in (4, 5, 6)])
    for name in ("0.weight", "2.bias"):
        every = torch.stack([values[name] for values in states])
        assert (merged[name] >= every.amin(0) - 1e-15).all()
        assert (merged[name] <= every.amax(0) + 1e-15).all()
        assert not torch.allclose(merged[name], every.mean(0))


@pytest.mark.parametrize("amount", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("buffers", ["interpolate", "before", "after"])
def test_with_equal_importances_it_is_interpolation(amount, buffers):
    before, after = double(1), double(2)
    matrix = importances(before, 4)
    merged = fisher_merge([before, after], [matrix, matrix], [1 - amount, amount], buffers=buffers)
    expected = interpolate(before, after, amount, buffers=buffers)
    assert list(merged) == list(expected)
    for name, value in expected.items():
        torch.testing.assert_close(merged[name], value, rtol=1e-13, atol=0)


def test_where_nothing_matters_it_is_the_plain_mean():
    old, new = {"w": torch.tensor([0.0, 0.0, 0.0])}, {"w": torch.tensor([4.0, 4.0, 4.0])}
    matrices = [Diagonal({"w": torch.tensor([1.0, 1e-20, 0.0])}), Diagonal({"w": torch.tensor([1.0, 3e-20, 0.0])})]
    assert fisher_merge([old, new], matrices)["w"].tolist() == [2.0, 2.0, 2.0]
    assert fisher_merge([old, new], matrices, [1, 3])["w"].tolist() == [3.0, 3.0, 3.0]
    torch.testing.assert_close(fisher_merge([old, new], matrices, floor=0)["w"], torch.tensor([2.0, 3.0, 2.0]))
    nothing = [Diagonal({"w": torch.zeros(3)})] * 2
    for floor in (0, 1e-12):
        assert fisher_merge([old, new], nothing, floor=floor)["w"].tolist() == [2.0, 2.0, 2.0]


def test_what_one_matrix_does_not_cover_matters_to_the_other_alone():
    old, new = {"w": torch.tensor([0.0]), "head": torch.tensor([0.0])}, {"w": torch.ones(1), "head": torch.ones(1)}
    matrices = [Diagonal({"w": torch.ones(1)}), Diagonal({"w": torch.ones(1), "head": torch.ones(1)})]
    merged = fisher_merge([old, new], matrices)
    assert merged["w"].item() == 0.5
    assert merged["head"].item() == pytest.approx(1.0, abs=1e-11)


def test_equal_entries_are_exact_and_a_weight_of_0_is_no_model():
    before, after = state(network(1)), state(network(2))
    before["2.bias"] = after["2.bias"] = torch.tensor([-torch.inf, 0.1])
    matrices = [importances(before, 4, torch.float32), importances(before, 5, torch.float32)]
    assert torch.equal(fisher_merge([before, after], matrices)["2.bias"], after["2.bias"])
    before["0.weight"][0, 0] = torch.nan
    assert same(fisher_merge([before, after], matrices, [0, 1]), after)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    generator = torch.Generator().manual_seed(0)
    before, after, one, two = (torch.rand(1000, generator=generator) for _ in range(4))
    before, after = before.to(dtype), after.to(dtype)
    merged = fisher_merge([{"w": before}, {"w": after}], [Diagonal({"w": one}), Diagonal({"w": two})])["w"]
    expected = (one * before.float() + two * after.float()) / (one + two)
    assert merged.dtype == dtype
    assert (merged.float() - expected).abs().max() <= expected.abs().max() * torch.finfo(dtype).eps


def test_the_result_shares_no_memory_and_the_arguments_stay():
    before, after = state(network(1)), state(network(2))
    matrices = [importances(before, 4), importances(before, 5)]
    copies = copy.deepcopy((before, after))
    for weights in (None, [0, 1]):
        for value in fisher_merge([before, after], matrices, weights).values():
            value.zero_()
    assert same(before, copies[0])
    assert same(after, copies[1])
    model = network(2)
    merged = fisher_merge([before, state(model)], matrices)
    assert merged._metadata == model.state_dict()._metadata
    model.load_state_dict(merged)


class Tied(nn.Module):
    """An embedding whose weight is the output's too."""

    def __init__(self, seed):
        super().__init__()
        self.table = nn.Embedding(5, 3)
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.table.weight
        nn.init.normal_(self.table.weight, generator=torch.Generator().manual_seed(seed))


def test_tied_weights_are_merged_once():
    models = [Tied(1), Tied(2)]
    states = [{name: value.clone() for name, value in model.state_dict().items()} for model in models]
    matrices = [Diagonal({"table.weight": torch.full((5, 3), value)}) for value in (1.0, 3.0)]
    merged = fisher_merge(states, matrices)
    expected = (models[0].table.weight + 3 * models[1].table.weight) / 4
    torch.testing.assert_close(merged["table.weight"], expected.detach())
    assert torch.equal(merged["head.weight"], merged["table.weight"])


def test_the_fisher_of_a_file_brings_its_weights(tmp_path):
    generator = torch.Generator().manual_seed(0)
    data = [(torch.randn(8, 3, generator=generator), torch.tensor([0, 1] * 4))]
    old, new = network(1).eval(), network(2).eval()
    for model, name in ((old, "old"), (new, "new")):
        fisher.anchored(model, data).save(tmp_path / name)
    files = [Anchored.load(tmp_path / name) for name in ("old", "new")]
    both = fisher_merge([state(old), state(new)], files)
    one = fisher_merge([None, state(new)], files)
    for name in files[0].anchor:
        assert torch.equal(one[name], both[name])
        assert not torch.equal(one[name], new.state_dict()[name])
    assert torch.equal(one["1.running_mean"], new.state_dict()["1.running_mean"])


def test_names_that_a_compiler_changed_are_the_same():
    before, after = double(1), {f"_orig_mod.{name}": value for name, value in double(2).items()}
    matrices = [importances(before, 4), importances(after, 5)]
    merged = fisher_merge([before, after], matrices)
    assert list(merged) == list(after)
    assert not torch.allclose(merged["_orig_mod.0.weight"], (before["0.weight"] + after["_orig_mod.0.weight"]) / 2)


def test_a_number_for_all_weights_is_a_diagonal():
    before, after = {"w": torch.zeros(2)}, {"w": torch.full((2,), 4.0)}
    merged = fisher_merge([before, after], [Identity({"w": 3.0}), Identity({"w": 1.0})])
    assert merged["w"].tolist() == [1.0, 1.0]


def test_lists_in_different_orders_are_told():
    before, after = double(1), double(2)
    matrix = importances(before, 4)
    anchored = [Anchored(matrix, {name: values[name] for name in matrix}) for values in (before, after)]
    fisher_merge([before, after], anchored)
    with pytest.raises(ValueError, match=r"curvatures\[0\] was estimated at other weights than states\[0\].*order"):
        fisher_merge([before, after], anchored[::-1])


def test_f11_states_that_are_one_memory_raise():
    model = network()
    matrix = importances(model.state_dict(), 1)
    with pytest.raises(ValueError, match=r"states 0 and 1 are the same memory.*copy"):
        fisher_merge([model.state_dict(), model.state_dict()], [matrix, matrix])


@pytest.mark.parametrize(("change", "words"), [
    ({"weights": [1, -1]}, "at least 0"), ({"weights": [0, 0]}, "not all 0"),
    ({"weights": [1, float("nan")]}, "finite"),
    ({"weights": [1]}, "2 states, 2 matrices and 1 weights"), ({"floor": 1.0}, r"lie in \[0, 1\)"),
    ({"floor": -0.1}, r"lie in \[0, 1\)"), ({"buffers": "mean"}, 'must be "interpolate", "before" or "after"'),
    ({"states": [None, None]}, "every state is None"), ({"states": [{}, {"w": torch.ones(2)}]}, "only after has w"),
    ({"states": [None, {"w": torch.ones(2)}]}, r"curvatures\[0\] brings no weights"),
    ({"states": [{"w": torch.ones(2)}]}, "at least two"),
    ({"curvatures": [Diagonal({"v": torch.ones(2)})] * 2}, "do not have, or have in another shape: v"),
    ({"curvatures": [Diagonal({"w": torch.ones(3)})] * 2}, "another shape: w"),
])
def test_arguments_that_do_not_fit_raise(change, words):
    matrix = Diagonal({"w": torch.ones(2)})
    given = {"states": [{"w": torch.zeros(2)}, {"w": torch.ones(2)}], "curvatures": [matrix, matrix], **change}
    with pytest.raises(ValueError, match=words):
        fisher_merge(given.pop("states"), given.pop("curvatures"), **given)


def test_what_is_no_diagonal_raises():
    model = nn.Linear(2, 2)
    data = [(torch.eye(2), torch.tensor([0, 1]))]
    factors = fisher.kronecker(model, data)
    states = [state(model), state(nn.Linear(2, 2))]
    with pytest.raises(TypeError, match=r"curvatures\[0\] is a Kronecker; .* diagonals"):
        fisher_merge(states, [factors, factors])
    with pytest.raises(TypeError, match=r"curvatures\[0\] is a dict"):
        fisher_merge(states, [{}, {}])
