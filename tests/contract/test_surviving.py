"""A regularizer survives what happens to models: files, copies, moves, compilers and mixed precision."""

import copy
import io
from functools import partial

import pytest
import torch
from torch import nn

from tests.contract.rows import ROWS, consolidate, holding, learned, make, network, penalty, walk, wander


def plain(value):
    """Whether a state is made of string-keyed mappings of tensors and plain values."""
    if isinstance(value, dict):
        return all(isinstance(key, str) and plain(entry) for key, entry in value.items())
    return value is None or type(value) in (torch.Tensor, bool, int, float, str)


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("tasks", [0, 1, 2])
def test_f26_the_state_goes_through_a_file(row, tasks):
    model = network()
    regularizer = learned(row, model, tasks=tasks)
    walk(regularizer, model)  # the next task's path has begun
    state = regularizer.state_dict()
    assert plain(state)
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    again = make(row)
    again.load_state_dict(torch.load(file, weights_only=True))
    wander(model)
    assert torch.equal(penalty(again, model), penalty(regularizer, model))
    assert (penalty(again, model).item() > 0) == (tasks > 0)
    for either in (again, regularizer):
        either.consolidate(model, [(torch.ones(3, 5, dtype=torch.float64), torch.tensor([0, 1, 2]))])
    wander(model)
    assert torch.equal(penalty(again, model), penalty(regularizer, model))


@pytest.mark.parametrize("row", ROWS)
def test_a_state_of_another_class_or_layout_is_refused(row):
    model = network()
    regularizer = learned(row, model)
    wander(model)
    before = penalty(regularizer, model)
    state = regularizer.state_dict()
    with pytest.raises(ValueError, match="the state of a Nobody"):
        regularizer.load_state_dict(state | {"class": "Nobody"})
    with pytest.raises(ValueError, match="layout 99"):
        regularizer.load_state_dict(state | {"version": 99})
    with pytest.raises(ValueError, match="lacks 'class'"):
        regularizer.load_state_dict({})
    assert torch.equal(penalty(regularizer, model), before)


@pytest.mark.parametrize("row", ROWS)
def test_deepcopy(row):
    model = network()
    regularizer = learned(row, model)
    twin, twin_model = copy.deepcopy((regularizer, model))
    wander(twin_model)
    value = penalty(twin, twin_model)
    assert value.item() > 0
    wander(model)
    assert torch.equal(penalty(regularizer, model), value)
    regularizer.consolidate(model, [(torch.ones(3, 5, dtype=torch.float64), torch.tensor([0, 1, 2]))])
    assert torch.equal(penalty(twin, twin_model), value)


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize(("before", "after", "error"), [
    (torch.float32, torch.float64, 1e-5), (torch.float64, torch.float32, 1e-4),
    (torch.float32, torch.float16, 3e-2), (torch.float32, torch.bfloat16, 2e-1),
])
def test_the_model_may_change_its_dtype(row, before, after, error):
    model = network(before)
    regularizer = learned(row, model, dtype=before)
    wander(model, distance=0.5)
    value = penalty(regularizer, model)
    moved = penalty(regularizer, model.to(after))
    assert moved.dtype == torch.promote_types(after, torch.float32)
    assert moved.item() == pytest.approx(value.item(), rel=error)
    moved.backward()
    assert all(weight.grad.dtype == after for weight in model.parameters() if weight.grad is not None)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("row", ROWS)
def test_the_model_may_change_its_device(row):
    model = network()
    regularizer = learned(row, model)
    wander(model)
    value = penalty(regularizer, model).item()
    moved = penalty(regularizer, model.to("cuda"))
    assert moved.device.type == "cuda"
    assert moved.item() == pytest.approx(value, rel=1e-12)
    assert penalty(regularizer, model.to("cpu")).item() == pytest.approx(value, rel=1e-15)


@pytest.mark.parametrize("row", ROWS)
def test_torch_compile(row):
    model = network()
    regularizer = learned(row, model)
    compiled = torch.compile(model, backend="eager")
    wander(model)
    value = penalty(regularizer, model)
    assert torch.equal(penalty(regularizer, compiled), value)
    inputs = torch.ones(2, 5, dtype=torch.float64)

    def loss(network, inputs):
        return network.eval()(inputs).square().mean() + regularizer.penalty(network, inputs)

    plain_gradient = torch.autograd.grad(loss(model, inputs), model[2].weight)[0]
    whole = torch.autograd.grad(torch.compile(loss, backend="eager")(model, inputs), model[2].weight)[0]
    torch.testing.assert_close(whole, plain_gradient)


@pytest.mark.parametrize("row", ROWS)
def test_a_compiled_model_is_consolidated_like_the_model_itself(row):
    data = [(torch.eye(5, dtype=torch.float64)[:3], torch.tensor([0, 1, 2]))]
    values = []
    for wrapped in (lambda model: model, partial(torch.compile, backend="eager")):
        model, regularizer = network(), make(row)
        consolidate(regularizer, wrapped(model), data)
        wander(model)
        values.append(penalty(regularizer, model).item())
    assert values[0] > 0
    assert values[1] == pytest.approx(values[0], rel=1e-12)


@holding("autocast")
def test_autocast_does_not_touch_the_penalty(row):
    model = network(torch.float32)
    regularizer = learned(row, model, dtype=torch.float32)
    wander(model)
    value = penalty(regularizer, model)
    with torch.autocast("cpu", torch.bfloat16):
        inside = penalty(regularizer, model)
        loss = nn.functional.mse_loss(model.eval()(torch.ones(2, 5)), torch.zeros(2, 3)) + inside
    assert inside.dtype == torch.float32
    assert torch.equal(inside, value)
    loss.backward()
    assert all(torch.isfinite(w.grad).all() for w in model.parameters() if w.grad is not None)
