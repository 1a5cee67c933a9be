"""Periodic merging: when the paper says, what the paper says, and a state that goes on where it stopped."""

import copy
import io

import pytest
import torch
from torch import nn

from forgetting.averaging import PeriodicMerge, interpolate
from forgetting.regularizers import L2SP
from tests.averaging.test_interpolation import network, same, state


def step(model, optimizer, number):
    """One step on inputs of its number."""
    generator = torch.Generator().manual_seed(number)
    optimizer.zero_grad()
    model(torch.randn(8, 3, generator=generator)).square().mean().backward()
    optimizer.step()


def run(model, merge, numbers, optimizer=None):
    optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    with merge.follow(optimizer):
        for number in numbers:
            step(model, optimizer, number)
    return optimizer


@pytest.mark.parametrize(("steps", "period", "moments"), [
    (8, 0.25, (2, 4, 6, 8)), (10, 0.25, (3, 5, 8, 10)), (10, 0.3, (3, 6, 9, 10)), (7, 1.0, (7,)), (3, 0.01, (1, 2, 3)),
    (1, 0.5, (1,)), (30, 0.1, tuple(range(3, 31, 3))), (9, 1 / 3, (3, 6, 9)), (10, 0.7, (7, 10)),
])
def test_it_merges_after_every_share_of_the_training_and_at_its_end(steps, period, moments):
    assert PeriodicMerge(network(), steps, period=period).moments == moments


@pytest.mark.parametrize("buffers", ["interpolate", "before", "after"])
def test_it_is_the_papers_loop(buffers):
    model = network(1).requires_grad_(True)
    plain, before = copy.deepcopy(model), state(model)
    merge = PeriodicMerge(model, 8, amount=0.7, period=0.25, buffers=buffers)
    run(model, merge, range(8))
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1, momentum=0.9)
    for number in range(8):
        step(plain, optimizer, number)
        if number in (1, 3, 5, 7):
            merged = interpolate(before, plain.state_dict(), 0.7, buffers=buffers)
            if buffers != "interpolate":  # a state dict does not say that the table is a buffer; the model does
                merged["table"] = {"before": before, "after": plain.state_dict()}[buffers]["table"].clone()
            plain.load_state_dict(merged)
    assert same(model.state_dict(), plain.state_dict())


def test_with_one_merge_at_the_end_it_is_wise_ft_and_the_ends_are_exact():
    start = network(1).requires_grad_(True)
    for amount in (0.0, 0.4, 1.0):
        model, plain = copy.deepcopy(start), copy.deepcopy(start)
        run(model, PeriodicMerge(model, 4, amount=amount, period=1.0), range(4))
        run(plain, PeriodicMerge(plain, 9, amount=1.0, period=1.0), range(4))
        assert same(model.state_dict(), interpolate(state(start), plain.state_dict(), amount))


def test_a_merge_a_step_is_the_proximal_step_of_l2_sp():
    rate, back = 0.1, 0.2
    start = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    merged, pulled = copy.deepcopy(start), copy.deepcopy(start)
    run(merged, PeriodicMerge(merged, 6, amount=1 - back, period=0.01), range(6),
        torch.optim.SGD(merged.parameters(), lr=rate))
    l2sp = L2SP(strength=back / ((1 - back) * rate))
    l2sp.consolidate(pulled)
    optimizer = torch.optim.SGD(pulled.parameters(), lr=rate)
    with l2sp.attach(pulled, optimizer, mode="proximal"):
        for number in range(6):
            step(pulled, optimizer, number)
    for name, value in pulled.state_dict().items():
        torch.testing.assert_close(merged.state_dict()[name], value, rtol=1e-5, atol=1e-6)


def test_the_optimizers_state_is_left_alone():
    model = nn.Linear(2, 1, bias=False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    merge, seen = PeriodicMerge(model, 4, amount=0.0, period=0.5), []
    with merge.follow(optimizer):
        for number in range(4):
            model.weight.grad = torch.tensor([[1.0, -1.0]]) * (number + 1)
            optimizer.step()
            seen.append((model.weight.data_ptr(), float(optimizer.state[model.weight]["step"]),
                         optimizer.state[model.weight]["exp_avg"].clone()))
    alone = torch.optim.AdamW([other := nn.Parameter(torch.zeros(1, 2))], lr=0.1)
    for number in range(4):
        other.grad = torch.tensor([[1.0, -1.0]]) * (number + 1)
        alone.step()
        assert seen[number][:2] == (model.weight.data_ptr(), number + 1)
        assert torch.equal(seen[number][2], alone.state[other]["exp_avg"])


def test_an_end_that_came_early_is_merged_once():
    model = network(1).requires_grad_(True)
    before = state(model)
    merge = PeriodicMerge(model, 100, amount=0.0, period=1.0)
    merge.finish()
    run(model, merge, range(3))
    assert not torch.equal(model[0].weight, before["0.weight"])
    merge.finish()
    assert torch.equal(model[0].weight, before["0.weight"])
    with torch.no_grad():
        model[0].weight.add_(1)
    merge.finish()
    assert not torch.equal(model[0].weight, before["0.weight"])


def test_a_skipped_step_is_no_step():
    model = network(1).requires_grad_(True)
    merge = PeriodicMerge(model, 4, period=0.5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, fused=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    with merge.follow(optimizer):
        for number in range(3):
            optimizer.zero_grad()
            scaler.scale(model(torch.full((4, 3), torch.inf if number == 1 else 1.0)).square().mean()).backward()
            scaler.step(optimizer)
            scaler.update()
    assert merge.taken == 2


def test_it_goes_on_in_another_process_to_the_same_result():
    start = network(1).requires_grad_(True)
    whole, half = copy.deepcopy(start), copy.deepcopy(start)
    plain = {"lr": 0.1}
    merge = PeriodicMerge(whole, 8, period=0.25)
    run(whole, merge, range(8), torch.optim.SGD(whole.parameters(), **plain))
    first = PeriodicMerge(half, 8, period=0.25)
    run(half, first, range(5), torch.optim.SGD(half.parameters(), **plain))
    file = io.BytesIO()
    torch.save({"model": half.state_dict(), "merge": first.state_dict()}, file)
    file.seek(0)
    stored = torch.load(file, weights_only=True)
    again = network(3).requires_grad_(True)
    again.load_state_dict(stored["model"])
    second = PeriodicMerge(again, 8, period=0.25)
    second.load_state_dict(stored["merge"])
    run(again, second, range(5, 8), torch.optim.SGD(again.parameters(), **plain))
    assert same(again.state_dict(), whole.state_dict())
    assert second.taken == 8


def test_what_does_not_fit_raises():
    model = network(1).requires_grad_(True)
    for steps in (0, -1, 2.0, True):
        with pytest.raises(ValueError, match="whole number of the training's steps"):
            PeriodicMerge(model, steps)
    for period in (0, 1.1, float("nan")):
        with pytest.raises(ValueError, match=r"must lie in \(0, 1\]"):
            PeriodicMerge(model, 4, period=period)
    with pytest.raises(ValueError, match=r"amount=1.5 must lie in \[0, 1\]"):
        PeriodicMerge(model, 4, amount=1.5)
    with pytest.raises(ValueError, match="must be \"interpolate\""):
        PeriodicMerge(model, 4, buffers="mean")
    merge = PeriodicMerge(model, 1)
    with pytest.raises(ValueError, match="its version is None"):
        merge.load_state_dict({})
    with pytest.raises(ValueError, match="only before has weight"):
        merge.load_state_dict(PeriodicMerge(nn.Linear(2, 2), 1).state_dict())
    model[2] = nn.Linear(4, 5)
    with pytest.raises(ValueError, match=r"shapes, before and after: 2.weight \(2, 4\) and \(5, 4\)"):
        merge.update()
