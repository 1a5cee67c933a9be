"""What the value of a penalty promises, whatever the method."""

import copy

import pytest
import torch

from forgetting.parameters import named, snapshot
from tests.contract.rows import (
    ROWS,
    batches,
    consolidate,
    examples,
    holding,
    learned,
    make,
    network,
    penalty,
    walk,
    wander,
)


def placed(model, anchor, direction, distance):
    """A copy of the model at anchor + distance·direction."""
    model = copy.deepcopy(model)
    with torch.no_grad():
        for name, parameter in named(model, trainable=False).items():
            parameter.copy_(anchor[name] + distance * direction[name])
    return model


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_zero_before_consolidation(row, dtype):
    model = network(dtype)
    value = make(row).penalty(model)
    assert value.item() == 0
    assert value.shape == ()
    assert value.dtype == torch.promote_types(dtype, torch.float32)
    assert value.device == next(model.parameters()).device
    assert not value.requires_grad


@holding("anchored", needs="anchored")
def test_zero_at_the_anchor_and_positive_elsewhere(row):
    model = network()
    regularizer = learned(row, model)
    assert penalty(regularizer, model).item() == 0
    wander(model)
    assert penalty(regularizer, model).item() > 1e-6


@holding("quadratic", needs="quadratic")
def test_quadratic_along_every_line(row):
    model = network()
    regularizer = learned(row, model)
    anchor = snapshot(named(model, trainable=False))
    generator = torch.Generator().manual_seed(5)
    direction = {n: torch.randn(w.shape, generator=generator, dtype=w.dtype) for n, w in anchor.items()}
    values = [penalty(regularizer, placed(model, anchor, direction, t)).item() for t in (-2, -1, 0, 1, 2, 5)]
    second = values[1] - 2 * values[2] + values[3]
    slope = (values[3] - values[1]) / 2
    assert second > 0
    for t, value in zip((-2, 2, 5), (values[0], values[4], values[5]), strict=True):
        assert value == pytest.approx(values[2] + slope * t + second * t * t / 2, rel=1e-10)


@holding("linear", needs="linear")
def test_linear_in_the_strength_at_fixed_state(row):
    model = network()
    regularizer = learned(row, model, strength=2.0)
    wander(model)
    one = penalty(regularizer, model)
    regularizer.strength = 7.0
    assert penalty(regularizer, model).item() == pytest.approx(3.5 * one.item(), rel=1e-12)


@holding("batches")
def test_the_batch_size_does_not_matter(row):
    values = []
    for size in (1, 4, 21):
        model = network()
        regularizer = make(row)
        consolidate(regularizer, model, batches(size))
        wander(model)
        values.append(penalty(regularizer, model).item())
    assert values[0] > 0
    assert values == pytest.approx([values[0]] * 3, rel=1e-10)


@holding("order")
def test_the_order_of_the_examples_does_not_matter(row):
    values = []
    for order in (torch.arange(21), torch.randperm(21, generator=torch.Generator().manual_seed(0))):
        model = network()
        regularizer = make(row)
        consolidate(regularizer, model, batches(21, order=order))
        wander(model)
        values.append(penalty(regularizer, model).item())
    assert values[0] > 0
    assert values[1] == pytest.approx(values[0], rel=1e-10)


@pytest.mark.parametrize("row", ROWS)
def test_the_model_is_left_as_found(row):
    model, regularizer = network(), make(row)
    model.train()
    model[1].eval()
    walk(regularizer, model)
    inputs, targets = examples()
    torch.nn.functional.cross_entropy(model(inputs), targets).backward()
    before = copy.deepcopy(model)
    gradients = {name: weight.grad for name, weight in model.named_parameters()}
    modes = [module.training for module in model.modules()]
    random = torch.random.get_rng_state()
    regularizer.consolidate(model, batches())
    penalty(regularizer, model)
    assert torch.equal(torch.random.get_rng_state(), random)
    assert [module.training for module in model.modules()] == modes
    for (name, tensor), old in zip(model.state_dict().items(), before.state_dict().values(), strict=True):
        assert torch.equal(tensor, old), name
    for name, weight in model.named_parameters():
        assert weight.grad is gradients[name], name
        assert weight.requires_grad == dict(before.named_parameters())[name].requires_grad
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
