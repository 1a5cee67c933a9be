"""The moving average: the paper's formula step for step, no skipped step, and the model given back bit for bit."""

import copy
import io

import pytest
import torch
from torch import nn

from forgetting.averaging import ExponentialAverage
from tests.averaging.test_interpolation import network, same, state


def trained(model, optimizer, steps, seed=0):
    """The weights and statistics after each of a few steps."""
    generator = torch.Generator().manual_seed(seed)
    seen = []
    for _ in range(steps):
        optimizer.zero_grad()
        inputs = torch.randn(8, 3, generator=generator, dtype=next(model.parameters()).dtype)
        model(inputs).square().mean().backward()
        optimizer.step()
        seen.append(state(model))
    return seen


@pytest.mark.parametrize("decay", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("buffers", ["after", "interpolate"])
def test_it_is_the_papers_recursion(decay, buffers):
    model = network(1).double().requires_grad_(True)
    expected = state(model)
    average = ExponentialAverage(model, decay, buffers=buffers)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with average.follow(optimizer):
        for after in trained(model, optimizer, 5):
            moving = {name for name, _ in model.named_parameters()} | (
                {"1.running_mean", "1.running_var", "table"} if buffers == "interpolate" else set())
            for name in after:
                part = (1 - decay) if name in moving else 1
                expected[name] = (1 - part) * expected[name] + part * after[name] if part != 1 else after[name]
    found = average.averaged()
    assert average.taken == 5
    assert list(found) == list(expected)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-12, atol=1e-14)
    trained(model, optimizer, 1)
    assert average.taken == 5


def test_bfloat16_weights_have_a_float32_average():
    model = nn.Linear(1, 1, bias=False).bfloat16().requires_grad_(False)
    model.weight.fill_(1.0)
    average = ExponentialAverage(model, 0.999)
    model.weight.fill_(2.0)
    for _ in range(100):
        average.update()
    assert average.state_dict()["values"]["weight"].item() == pytest.approx(2 - 0.999**100, rel=1e-5)
    assert average.averaged()["weight"].dtype == torch.bfloat16
    assert average.averaged()["weight"].item() > 1


def test_the_weights_are_swapped_in_and_come_back_bit_for_bit():
    model = network(1).requires_grad_(True)
    average = ExponentialAverage(model, 0.5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with average.follow(optimizer):
        after = trained(model, optimizer, 3)[-1]
        pointers = [tensor.data_ptr() for tensor in model.state_dict().values()]
        expected = average.averaged()
        with average.swapped() as swapped:
            assert swapped is model
            assert same(model.state_dict(), expected)
            assert not same(model.state_dict(), after)
            with pytest.raises(RuntimeError, match="leave swapped"):
                trained(model, optimizer, 1)
            with pytest.raises(RuntimeError, match="already"), average.swapped():
                pass
        assert same(model.state_dict(), after)
        with pytest.raises(KeyError), average.swapped():
            raise KeyError
        assert same(model.state_dict(), after)
    assert pointers == [tensor.data_ptr() for tensor in model.state_dict().values()]
    assert average.taken == 3


def test_the_average_shares_no_memory_with_the_model():
    model = network(1)
    average = ExponentialAverage(model, 0.5)
    before = state(model)
    for tensor in model.state_dict().values():
        tensor.zero_()
    weights = [name for name, _ in model.named_parameters()]
    for found in (average.averaged(), average.averaged()):
        assert all(torch.equal(found[name], before[name]) for name in weights)
        for value in found.values():
            value.zero_()


@pytest.mark.parametrize("fused", [False, True])  # a fused optimizer skips inside its own step
def test_a_skipped_step_is_no_step(fused):
    model = network(1).requires_grad_(True)
    average = ExponentialAverage(model, 0.5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    with average.follow(optimizer):
        for step in range(4):
            optimizer.zero_grad()
            loss = model(torch.ones(4, 3) * (torch.inf if step == 1 else step + 1.0)).square().mean()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
    assert average.taken == 3


def test_the_state_goes_on_in_another_process_to_the_same_result():
    model = network(1).requires_grad_(True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    average = ExponentialAverage(model, 0.7, buffers="interpolate")
    with average.follow(optimizer):
        trained(model, optimizer, 3)
    file = io.BytesIO()
    torch.save(average.state_dict(), file)
    file.seek(0)
    twin = copy.deepcopy(model)
    again = ExponentialAverage(twin, 0.7, buffers="interpolate")
    again.load_state_dict(torch.load(file, weights_only=True))
    for which, weights in ((average, model), (again, twin)):
        stepper = torch.optim.SGD(weights.parameters(), lr=0.1)
        with which.follow(stepper):
            trained(weights, stepper, 2, seed=1)
    assert again.taken == average.taken == 5
    assert same(again.averaged(), average.averaged())


def test_tied_weights_and_compiled_models():
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)).requires_grad_(False)
    model[1].weight = model[0].weight
    compiled = torch.compile(model, backend="eager")
    average = ExponentialAverage(compiled, 0.5)
    model[0].weight.zero_()
    average.update()
    assert list(average.state_dict()["values"]) == ["0.weight"]
    found = average.averaged()
    assert list(found) == ["0.weight", "1.weight"]
    assert torch.equal(found["0.weight"], found["1.weight"])
    with average.swapped():
        assert torch.equal(model[1].weight, found["1.weight"])


def test_what_does_not_fit_raises():
    model = network(1).requires_grad_(True)
    for decay in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match=r"decay=.* must lie in \[0, 1\]"):
            ExponentialAverage(model, decay)
    with pytest.raises(ValueError, match='buffers=\'before\' must be "interpolate" or "after"'):
        ExponentialAverage(model, 0.5, buffers="before")
    average = ExponentialAverage(model, 0.5)
    with pytest.raises(TypeError, match=r"not a Sequential"):
        average.follow(model)
    with pytest.raises(ValueError, match="holds none of this model's parameters"):
        average.follow(torch.optim.SGD(network(1).parameters(), lr=0.1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with average.follow(optimizer), pytest.raises(ValueError, match="follows an optimizer already"):
        average.follow(optimizer)
    assert not optimizer._optimizer_step_post_hooks
    with pytest.raises(ValueError, match="its version is None"):
        average.load_state_dict({})
    other = ExponentialAverage(nn.Linear(3, 2), 0.5).state_dict()
    with pytest.raises(ValueError, match="the state and the average differ in the names or shapes of 0.weight"):
        average.load_state_dict(other)
    model[2] = nn.Linear(4, 5)
    for use in (average.update, average.averaged):
        with pytest.raises(ValueError, match="the model and the average differ in .* of 2.weight, 2.bias"):
            use()
