"""One pass for value and gradient: equal to float64 arithmetic whatever the shapes, layouts, dtypes and blocks."""

import copy
import io

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from torch import nn

from forgetting.curvature import Diagonal, Identity
from forgetting.regularizers import EWC, L2SP, blocks, fused
from tests.regularizers.small import Weights, importances, move

SHAPES = [(), (0,), (1,), (5,), (128,), (3, 0), (257,), (7, 5), (2, 3, 4, 4), (1, 6, 1, 3), (400,)]
ERRORS = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 1e-5, torch.float16: 1e-5}
LAYOUTS = {
    "contiguous": lambda tensor: tensor,
    "transposed": lambda tensor: tensor.transpose(0, -1).contiguous().transpose(0, -1) if tensor.dim() > 1 else tensor,
    "channels last": lambda tensor: (tensor.contiguous(memory_format=torch.channels_last)
                                     if tensor.dim() == 4 else tensor),
    "with gaps": lambda tensor: (torch.stack([tensor, tensor], -1)[..., 0] if tensor.dim() else tensor),
}


def laid(model, layout):
    """The model with its weights in another layout."""
    for weight in model.parameters():
        weight.data = LAYOUTS[layout](weight.data)
    return model


def oracle(model, ewc, matrix, anchor):
    """The penalty and its gradient, term by term in float64."""
    value, pull = 0.0, {}
    for name, weight in model.named_parameters():
        delta = weight.detach().double() - anchor[name].double()
        product = matrix[name].double() * delta
        value += 0.5 * ewc.strength * float((delta * product).sum())
        pull[name] = ewc.strength * product
    return value, pull


def case(shapes, dtype, layout, later, strength=0.3):
    """A model away from its anchor, EWC, and what both were made of."""
    model = laid(Weights(**{f"w{i}": torch.zeros(shape, dtype=dtype) for i, shape in enumerate(shapes)}), layout)
    move(model, 1)
    anchor = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    matrix = importances(model, 2)
    ewc = EWC(strength)
    ewc.consolidate(model, curvature=matrix)
    move(laid(model, later), 3)
    return model, ewc, matrix, anchor


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.sampled_from(SHAPES), min_size=1, max_size=5), st.sampled_from(list(ERRORS)),
       st.sampled_from(list(LAYOUTS)), st.sampled_from(list(LAYOUTS)), st.sampled_from([128, 256, 2**17]),
       st.sampled_from([0, 2**20]))
def test_every_mode_equals_float64(monkeypatch, shapes, dtype, layout, later, block, small):
    monkeypatch.setattr(blocks, "CACHE_BLOCK", block)
    monkeypatch.setattr(fused, "_SMALL", small)
    model, ewc, matrix, anchor = case(shapes, dtype, layout, later)
    value, pull = oracle(model, ewc, matrix, anchor)
    error = ERRORS[dtype]
    penalty = ewc.penalty(model)
    assert penalty.item() == pytest.approx(value, rel=error, abs=1e-30)
    (4 * penalty).backward()
    rounding = torch.finfo(dtype).eps
    for name, weight in model.named_parameters():
        scale = 4 * pull[name].abs() * max(error, rounding) + (1e-4 if dtype == torch.float16 else 1e-30)
        assert weight.grad.dtype == dtype
        assert weight.grad.shape == weight.shape
        assert ((weight.grad.double() - 4 * pull[name]).abs() <= scale).all()
        found = ewc.pull(model)[name]
        assert found.dtype == torch.promote_types(dtype, torch.float32)
        assert ((found.double() - pull[name]).abs() <= error * pull[name].abs()).all()
        weight.grad = LAYOUTS[later](torch.ones_like(weight))
    with ewc.attach(model, optimizer := torch.optim.SGD(model.parameters(), lr=0.0), mode="gradient"):
        optimizer.step()
    for name, weight in model.named_parameters():
        scale = (1 + pull[name].abs()) * max(error, rounding)
        assert ((weight.grad.double() - 1 - pull[name]).abs() <= scale).all()
        weight.grad = torch.zeros_like(weight)
    start = {name: weight.detach().double().clone() for name, weight in model.named_parameters()}
    with ewc.attach(model, optimizer := torch.optim.SGD(model.parameters(), lr=2.0), mode="proximal"):
        optimizer.step()
    for name, weight in model.named_parameters():
        a = 2.0 * ewc.strength * matrix[name].double()
        goal = start[name] - a / (1 + a) * (start[name] - anchor[name].double())
        assert ((weight.double() - goal).abs() <= max(2e-6, rounding) * (1 + start[name].abs())).all()


@pytest.mark.parametrize("count", [blocks.CACHE_BLOCK + 1, 3 * blocks.CACHE_BLOCK - 77, 2**20 + 3])
def test_a_large_tensor_is_cut_into_blocks(count):
    model, ewc, matrix, anchor = case([(count,), (3,)], torch.float32, "contiguous", "contiguous")
    value, pull = oracle(model, ewc, matrix, anchor)
    penalty = ewc.penalty(model)
    penalty.backward()
    assert penalty.item() == pytest.approx(value, rel=5e-6)
    for name, weight in model.named_parameters():
        assert ((weight.grad - pull[name]).abs() <= 1e-6 * pull[name].abs()).all()


@pytest.mark.parametrize("dtype", ERRORS)
@pytest.mark.parametrize("matrix", ["diagonal", "identity"])
def test_exactly_0_at_the_anchor(dtype, matrix):
    model = Weights(a=torch.zeros(700, dtype=dtype), b=torch.zeros((), dtype=dtype))
    move(model, 1)
    ewc = EWC(1e9)
    ewc.consolidate(model, curvature=importances(model, 2) if matrix == "diagonal" else Identity({"a": 1e3, "b": 0.0}))
    penalty = ewc.penalty(model)
    penalty.backward()
    assert penalty.item() == 0
    assert all(weight.grad.eq(0).all() for weight in model.parameters())


def test_the_gradient_is_handed_over_once_and_then_computed_again():
    model, ewc, _, _ = case([(300,)], torch.float32, "contiguous", "contiguous")
    penalty = ewc.penalty(model)
    first, = torch.autograd.grad(penalty, model.w0, retain_graph=True)
    second, = torch.autograd.grad(3 * penalty, model.w0)
    assert torch.equal(first, ewc.pull(model)["w0"])
    torch.testing.assert_close(second, 3 * first)
    assert first.data_ptr() != second.data_ptr()


def test_a_weight_that_changes_before_the_backward_is_an_error():
    model, ewc, _, _ = case([(300,)], torch.float32, "contiguous", "contiguous")
    penalty = ewc.penalty(model)
    with torch.no_grad():
        model.w0.add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        penalty.backward()


def test_two_penalties_do_not_share_memory():
    """Also one whose backward runs after another's forward: what a scratch holds never leaks into a gradient."""
    model, ewc, _, _ = case([(300,), (40, 5)], torch.float32, "contiguous", "contiguous")
    other = EWC(7.0)
    other.consolidate(model, curvature=importances(model, 9))
    move(model, 11)
    expected = {name: ewc.pull(model)[name] + other.pull(model)[name] for name in ("w0", "w1")}
    (ewc.penalty(model) + other.penalty(model)).backward()
    for name, weight in model.named_parameters():
        torch.testing.assert_close(weight.grad, expected[name])


def test_a_16_bit_gradient_is_rounded_after_the_loss_scale():
    model = Weights(a=torch.zeros(8, dtype=torch.float16))
    ewc = EWC(1.0)
    ewc.consolidate(model, curvature=Diagonal({"a": torch.full((8,), 1e-9)}))
    model.a.data.fill_(1.0)
    (2.0**16 * ewc.penalty(model)).backward()
    torch.testing.assert_close(model.a.grad, torch.full((8,), 2.0**16 * 1e-9).half())


def test_without_a_graph_no_gradient_is_kept():
    model, ewc, _, _ = case([(300,)], torch.float32, "contiguous", "contiguous")
    with torch.no_grad():
        assert not ewc.penalty(model).requires_grad
    model.w0.requires_grad_(False)
    assert not ewc.penalty(model).requires_grad


@pytest.mark.parametrize("settings", [{}, {"storage": "int8"}, {"offload": True}])
def test_copies_and_files_go_on_alike(settings):
    model = Weights(a=torch.randn(500), b=torch.randn(3, 4).T)
    ewc = EWC(2.0, **settings)
    ewc.consolidate(model, curvature=importances(model, 2))
    file = io.BytesIO()
    torch.save(ewc.state_dict(), file)
    file.seek(0)
    loaded = EWC(2.0, **settings)
    loaded.load_state_dict(torch.load(file, weights_only=True))
    move(model, 3)
    value = ewc.penalty(model)
    assert value.item() > 0
    for twin in (loaded, copy.deepcopy(ewc)):
        assert torch.equal(twin.penalty(model), value)
        twin.consolidate(model, curvature=importances(model, 4))
        assert twin.penalty(model).item() == 0
    assert torch.equal(ewc.penalty(model), value)


def test_l2sp_pulls_new_weights_in_the_same_pass():
    model = nn.Sequential(nn.Linear(3, 4))
    l2sp = L2SP(2.0, head=0.5, storage="int8")
    l2sp.consolidate(model)
    model.append(nn.Linear(4, 2))
    penalty = l2sp.penalty(model)
    penalty.backward()
    assert penalty.item() == pytest.approx(0.5 * sum(w.square().sum().item() for w in model[1].parameters()))
    torch.testing.assert_close(model[1].weight.grad, model[1].weight.detach())
    assert model[0].weight.grad.eq(0).all()
