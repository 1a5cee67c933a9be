"""Interpolation: exact where it can be, loud where two states do not fit, and the model is given back."""

import copy

import pytest
import torch
from torch import nn

from forgetting.averaging import CURVE, interpolate, wise_ft


def network(seed=0):
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    model.register_buffer("table", torch.zeros(2))
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape, generator=generator))
        else:
            tensor.fill_(seed)
    return model


def state(model):
    return copy.deepcopy(model.state_dict())


def same(one, other):
    return list(one) == list(other) and all(torch.equal(one[name], other[name]) for name in one)


def test_every_floating_entry_lies_on_the_line_and_counters_come_from_after():
    before, after = state(network(1)), state(network(2))
    mixed = interpolate(before, after, 0.3)
    for name, value in mixed.items():
        if value.is_floating_point():
            torch.testing.assert_close(value, 0.7 * before[name] + 0.3 * after[name])
    assert mixed["1.num_batches_tracked"] == 2


def test_the_ends_and_equal_entries_are_exact():
    before, after = state(network(1)), state(network(2))
    before["2.bias"] = after["2.bias"] = torch.tensor([-torch.inf, 0.1])
    counters = {"1.num_batches_tracked": torch.tensor(2)}
    assert same(interpolate(before, after, 0), {**before, **counters})
    assert same(interpolate(before, after, 1), after)
    for amount in CURVE:
        assert torch.equal(interpolate(before, after, amount)["2.bias"], after["2.bias"])


@pytest.mark.parametrize(("buffers", "part"), [("before", 0.0), ("after", 1.0), ("interpolate", 0.25)])
def test_running_statistics_come_from_where_the_argument_says(buffers, part):
    before, after = state(network(1)), state(network(2))
    mixed = interpolate(before, after, 0.25, buffers=buffers)
    for name in ("1.running_mean", "1.running_var"):
        torch.testing.assert_close(mixed[name], (1 - part) * before[name] + part * after[name])
    torch.testing.assert_close(mixed["1.weight"], 0.75 * before["1.weight"] + 0.25 * after["1.weight"])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    before, after = torch.rand(1000).to(dtype), torch.rand(1000).to(dtype)
    mixed = interpolate({"weight": before}, {"weight": after}, 0.3)["weight"]
    assert mixed.dtype == dtype
    assert torch.equal(mixed, (0.7 * before.float() + 0.3 * after.float()).to(dtype))
    assert not torch.equal(mixed, 0.7 * before + 0.3 * after)


def test_a_state_saved_in_half_precision_does_not_lower_the_model():
    mixed = interpolate({"w": torch.tensor([1.0]).half()}, {"w": torch.tensor([1.001])}, 0.5)["w"]
    assert mixed.dtype == torch.float32
    torch.testing.assert_close(mixed, torch.tensor([1.0005]))


def test_the_result_shares_no_memory_and_the_arguments_stay():
    before, after = state(network(1)), state(network(2))
    copies = copy.deepcopy(before), copy.deepcopy(after)
    for amount in (0, 0.5, 1):
        for value in interpolate(before, after, amount).values():
            value.zero_()
    assert same(before, copies[0])
    assert same(after, copies[1])


def test_states_load_with_their_metadata():
    model = network(2)
    mixed = interpolate(state(network(1)), state(model), 0.5)
    assert mixed._metadata == model.state_dict()._metadata
    model.load_state_dict(mixed)
    assert same(model.state_dict(), mixed)


def test_states_that_do_not_fit_raise_with_the_names():
    before, after = state(network(1)), state(network(2))
    renamed = {name.replace("2.", "head."): value for name, value in after.items()}
    with pytest.raises(ValueError, match=r"only before has 2.weight, 2.bias; only after has head.weight, head.bias"):
        interpolate(before, renamed, 0.5)
    with pytest.raises(ValueError, match=r"only after has none"):
        interpolate(before, {name: after[name] for name in after if name != "2.bias"}, 0.5)
    after["2.weight"] = torch.zeros(7, 4)
    with pytest.raises(ValueError, match=r"shapes, before and after: 2.weight \(2, 4\) and \(7, 4\)"):
        interpolate(before, after, 0.5)


@pytest.mark.parametrize("amount", [-0.1, 1.5, float("nan")])
def test_amounts_out_of_range_raise(amount):
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\]"):
        interpolate({}, {}, amount)
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\]"):
        wise_ft(network(), state(network()), (0.5, amount))


def test_unknown_sources_of_buffers_raise():
    with pytest.raises(ValueError, match='buffers=\'mean\' must be "interpolate"'):
        interpolate({}, {}, 0.5, buffers="mean")


def test_the_whole_curve_and_back():
    model, before = network(2), state(network(1))
    after, pointers = state(model), [tensor.data_ptr() for tensor in model.state_dict().values()]
    seen = []
    for amount, walked in wise_ft(model, before):
        assert walked is model
        assert same(model.state_dict(), interpolate(before, after, amount))
        seen.append(amount)
        model.train()(torch.randn(4, 3))
        model.requires_grad_(True)
    assert seen == [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1]
    assert same(model.state_dict(), after)
    assert pointers == [tensor.data_ptr() for tensor in model.state_dict().values()]


def test_the_model_knows_all_its_buffers():
    model, before = network(2), state(network(1))
    after = state(model)
    for _ in wise_ft(model, before, (0.5,), buffers="before"):
        assert torch.equal(model.table, before["table"])
        assert torch.equal(model[1].running_var, before["1.running_var"])
        assert not torch.equal(model[1].weight, before["1.weight"])
    assert same(model.state_dict(), after)


def test_the_model_is_given_back_after_an_exception_a_break_and_a_close():
    model, before = network(2), state(network(1))
    after = state(model)

    def fails():
        for _ in wise_ft(model, before):
            raise KeyError("in the loop")

    with pytest.raises(KeyError, match="in the loop"):
        fails()
    assert same(model.state_dict(), after)
    for _ in wise_ft(model, before):
        break
    assert same(model.state_dict(), after)
    walk = wise_ft(model, before)
    next(walk)
    assert not same(model.state_dict(), after)
    walk.close()
    assert same(model.state_dict(), after)


def test_f11_a_before_that_aliases_the_model_raises():
    model = network()
    before = model.state_dict()
    with pytest.raises(ValueError, match=r"shares memory with the model in table, 0.weight.*copy.deepcopy"):
        wise_ft(model, before)


def test_a_compiled_model_takes_the_plain_names():
    model, before = network(2), state(network(1))
    compiled = torch.compile(model, backend="eager").eval()
    inputs = torch.randn(2, 3)
    expected = network(1).eval()(inputs)
    for names in (before, {f"_orig_mod.{name}": value for name, value in before.items()}):
        outputs = [walked(inputs) for _, walked in wise_ft(compiled, names, (0,))]
        assert torch.equal(outputs[0], expected)


def test_a_linear_model_interpolates_its_outputs():
    models = [nn.Linear(3, 2).double() for _ in range(2)]
    inputs = torch.randn(5, 3).double()
    outputs = [model(inputs) for model in models]
    before = state(models[0])
    for amount, model in wise_ft(models[1], before, (0.25, 0.75)):
        torch.testing.assert_close(model(inputs), (1 - amount) * outputs[0] + amount * outputs[1])
