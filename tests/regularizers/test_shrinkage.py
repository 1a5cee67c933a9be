"""Batch spectral shrinkage against singular value decompositions in float64."""

import copy

import pytest
import torch
from torch import nn

from forgetting.regularizers import BatchSpectralShrinkage
from forgetting.regularizers.shrinkage import smallest_squares
from tests.regularizers.distilled import Both, numbers, seeded, shift

INPUTS = numbers(5, 4)


@pytest.mark.parametrize("shape", [(3, 8), (8, 3), (6, 6), (1, 4), (4, 1)])
@pytest.mark.parametrize("count", [1, 2, 9])
def test_the_value_is_that_of_a_singular_value_decomposition(shape, count):
    matrix = numbers(*shape)
    values = torch.linalg.svdvals(matrix)
    assert smallest_squares(matrix, count).item() == pytest.approx(values[-count:].square().sum().item(), rel=1e-10)


def test_tiny_singular_values_are_exact_in_float32():
    left = torch.linalg.qr(numbers(6, 6)).Q
    right = torch.linalg.qr(numbers(20, 6, seed=2)).Q
    sizes = torch.tensor([1e3, 10.0, 1.0, 0.1, 1e-2, 5e-3], dtype=torch.float64)
    matrix = (left * sizes) @ right.T
    assert smallest_squares(matrix, 2).item() == pytest.approx(1e-4 + 25e-6, rel=1e-6)
    rounded = matrix.float()
    exact = torch.linalg.svdvals(rounded.double())[-2:].square().sum().item()
    assert smallest_squares(rounded, 2).item() == pytest.approx(exact, rel=1e-2)


@pytest.mark.parametrize("shape", [(4, 7), (7, 4)])
@pytest.mark.parametrize("count", [1, 3])
def test_the_gradient_is_that_of_finite_differences(shape, count):
    matrix = numbers(*shape).requires_grad_()
    smallest_squares(matrix, count).backward()
    for row in range(shape[0]):
        for column in range(shape[1]):
            ends = []
            for sign in (1, -1):
                bent = matrix.detach().clone()
                bent[row, column] += sign * 1e-6
                ends.append(torch.linalg.svdvals(bent)[-count:].square().sum().item())
            assert matrix.grad[row, column].item() == pytest.approx((ends[0] - ends[1]) / 2e-6, abs=1e-7)


@pytest.mark.parametrize("matrix", [torch.zeros(3, 5), torch.ones(3, 5), torch.eye(4)])
def test_the_gradient_is_finite_where_singular_values_meet(matrix):
    matrix = matrix.clone().requires_grad_()
    smallest_squares(matrix, 2).backward()
    assert torch.isfinite(matrix.grad).all()


def test_the_features_are_what_enters_the_layer_that_runs_last():
    class Backwards(nn.Module):
        def __init__(self):
            super().__init__()
            self.head, self.body = nn.Linear(3, 2), nn.Linear(4, 3)

        def forward(self, inputs):
            return self.head(torch.tanh(self.body(inputs)))

    model = seeded(Backwards)
    shrinkage = BatchSpectralShrinkage(strength=3.0, smallest=2)
    shrinkage.consolidate(model)
    expected = torch.linalg.svdvals(torch.tanh(model.body(INPUTS)))[-2:].square().sum().item()
    assert shrinkage.penalty(model, INPUTS).item() == pytest.approx(3.0 * expected, rel=1e-12)
    shrinkage.penalty(model, INPUTS).backward()
    assert model.body.weight.grad.abs().sum() > 0
    assert model.head.weight.grad is None


def test_a_module_may_be_named_and_maps_are_flattened():
    model = nn.Sequential(nn.Conv2d(1, 2, 2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2)).double()
    images = numbers(4, 1, 3, 3)
    shrinkage = BatchSpectralShrinkage(strength=1.0, module="0")
    shrinkage.consolidate(model)
    expected = torch.linalg.svdvals(model[0](images).flatten(1))[-1:].square().sum().item()
    assert shrinkage.penalty(model, images).item() == pytest.approx(expected, rel=1e-10)
    with pytest.raises(ValueError, match="matches none"):
        BatchSpectralShrinkage(1.0, module="layer").consolidate(model)
    with pytest.raises(ValueError, match="names several modules"):
        BatchSpectralShrinkage(1.0, module="*").consolidate(model)


def test_the_loops_own_pass_is_heard():
    model = seeded(lambda: nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 2)))
    shrinkage = BatchSpectralShrinkage(strength=1.0)
    shrinkage.consolidate(model)
    calls = []
    hook = model[0].register_forward_hook(lambda *_: calls.append(model.training))
    with shrinkage.attach(model, torch.optim.SGD(model.parameters(), lr=0.1)):
        shrinkage.penalty(model, INPUTS, model(INPUTS))
        calls.clear()
        outputs = model(INPUTS)
        value = shrinkage.penalty(model, INPUTS, outputs)
    assert calls == [True]
    with shrinkage.attach(model, torch.optim.SGD(model.parameters(), lr=0.1)):  # the head is known by now
        calls.clear()
        shrinkage.penalty(model, INPUTS, model(INPUTS))
    assert calls == [True]
    hook.remove()
    expected = torch.linalg.svdvals(copy.deepcopy(model)[:2](INPUTS))[-1:].square().sum().item()
    assert value.item() == pytest.approx(expected, rel=1e-9)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_it_presses_the_smallest_singular_value_down():
    model = seeded(Both)
    shrinkage = BatchSpectralShrinkage(strength=1.0)
    shrinkage.consolidate(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = shrinkage.penalty(model, INPUTS).item()
    for _ in range(30):
        optimizer.zero_grad()
        shrinkage.penalty(model, INPUTS).backward()
        optimizer.step()
    assert shrinkage.penalty(model, INPUTS).item() < 0.1 * before


def test_each_argument_changes_something_and_autocast_does_not():
    model = seeded(Both, torch.float32)
    values = []
    for settings in ({}, {"smallest": 3}, {"module": "body"}):
        shrinkage = BatchSpectralShrinkage(1.0, **settings)
        shrinkage.consolidate(model)
        values.append(shrinkage.penalty(model, INPUTS.float()).item())
    assert len(set(values)) == 3
    matrix = numbers(4, 7).float()
    with torch.autocast("cpu", torch.bfloat16):
        inside = smallest_squares(matrix, 2)
    assert torch.equal(inside, smallest_squares(matrix, 2))
    assert smallest_squares(matrix.bfloat16(), 1).dtype == torch.float32


def test_it_acts_from_consolidate_on_and_needs_inputs():
    model = seeded(Both)
    shrinkage = BatchSpectralShrinkage(1.0)
    assert shrinkage.penalty(model).item() == 0
    shrinkage.consolidate(model)
    with pytest.raises(ValueError, match="give its penalty the batch's inputs"):
        shrinkage.penalty(model)
    with pytest.raises(ValueError, match="no use for curvature="):
        shrinkage.consolidate(model, curvature=object())
    with pytest.raises(ValueError, match="at least one singular value"):
        BatchSpectralShrinkage(1.0, smallest=0)
    again = BatchSpectralShrinkage(1.0)
    again.load_state_dict(shrinkage.state_dict())
    shift(model)
    assert torch.equal(again.penalty(model, INPUTS), shrinkage.penalty(model, INPUTS))
