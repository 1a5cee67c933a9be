"""The frozen copy: it is the model as it was, and the model does not notice."""

import copy
import io

import pytest
import torch
from torch import nn

from forgetting.regularizers import DELTA, KL, BatchSpectralShrinkage, FeatureL2, LwF
from forgetting.regularizers.teacher import Teacher, live_tensors
from tests.regularizers.distilled import MODELS, Both, norms, numbers, seeded, shift


def past(teacher, model):
    return teacher.past(model, live_tensors(model))


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_it_says_what_the_model_said(make):
    model = seeded(make)
    inputs = numbers(7, 4)
    old = copy.deepcopy(model).eval()
    teacher = Teacher.of(model)
    shift(model)
    for buffer in model.buffers():
        buffer.add_(1)
    said = past(teacher, model).run(inputs)
    assert not said.requires_grad
    assert torch.equal(said, old(inputs))
    assert (said - copy.deepcopy(model).eval()(inputs)).abs().max() > 0.01


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_it_shares_no_memory_with_the_model_and_training_does_not_move_it(make):
    model = seeded(make)
    teacher = Teacher.of(model)
    before = {name: value.clone() for name, value in teacher.values.items()}
    mine = {value.untyped_storage().data_ptr() for value in teacher.values.values()}
    assert mine.isdisjoint(tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers()))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        (model(numbers(7, 4)).square().mean() + past(teacher, model).run(numbers(7, 4)).mean()).backward()
        optimizer.step()
    assert all(torch.equal(teacher.values[name], value) for name, value in before.items())


def test_the_anchor_does_not_alias_the_weights_and_the_penalty_pulls():
    # Fault F11: an aliasing anchor follows the weights, and the penalty stays 0.
    for method in (LwF(1.0), KL(1.0), FeatureL2(1.0)):
        model = seeded(Both)
        method.consolidate(model)
        state = method.state_dict()
        for weight in model.parameters():
            weight.data.mul_(2.0)
        value = method.penalty(model, numbers(5, 4))
        assert value.item() > 0.01
        for tensor in state["teacher"].values():
            tensor.zero_()
        assert torch.equal(method.penalty(model, numbers(5, 4)), value)


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_the_model_is_left_as_found(make):
    model = seeded(make)
    teacher = Teacher.of(model)
    shift(model)
    modes = [module.training for module in model.modules()]
    parameters = list(model.named_parameters())
    values = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    random = torch.random.get_rng_state()
    past(teacher, model).run(numbers(7, 4))
    assert [module.training for module in model.modules()] == modes
    assert all(one is other for (_, one), (_, other) in zip(parameters, model.named_parameters(), strict=True))
    assert all(torch.equal(tensor, values[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), random)
    live = copy.deepcopy(model).eval()(numbers(7, 4))
    assert torch.equal(model.eval()(numbers(7, 4)), live)


def test_modes_come_back_after_an_error_too():
    model = seeded(norms)
    teacher = Teacher.of(model)
    modes = [module.training for module in model.modules()]
    weights = list(model.parameters())
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        past(teacher, model).run(numbers(7, 9))
    assert [module.training for module in model.modules()] == modes
    assert all(one is other for one, other in zip(weights, model.parameters(), strict=True))


def test_what_eval_would_do_on_its_own_is_not_done():
    class Merging(nn.Linear):
        def train(self, mode=True):
            self.merged = not mode
            return super().train(mode)

    model = Merging(4, 3).double()
    past(Teacher.of(model), model).run(numbers(2, 4))
    assert not hasattr(model, "merged")


@pytest.mark.parametrize("method", [LwF, KL, FeatureL2])
def test_it_runs_once_a_batch(method):
    model = seeded(Both)
    calls = []
    model.head.register_forward_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    regularizer = method(1.0)
    regularizer.consolidate(model)
    assert calls == []
    inputs = numbers(5, 4)
    with regularizer.attach(model, torch.optim.SGD(model.parameters(), lr=0.1)):
        outputs = model(inputs)
        regularizer.penalty(model, inputs, outputs)
        calls.clear()
        outputs = model(inputs)
        regularizer.penalty(model, inputs, outputs)
    assert calls == [True, False]


def test_inputs_may_be_a_tensor_a_tuple_or_a_mapping():
    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(4, 3, dtype=torch.float64))

        def forward(self, left, right=0.0):
            return (left + right) @ self.weight

    model = Sum()
    lwf, one, other = LwF(1.0), numbers(5, 4), numbers(5, 4, seed=8)
    lwf.consolidate(model)
    shift(model)
    value = lwf.penalty(model, one + other)
    assert value > 0
    assert torch.equal(lwf.penalty(model, (one, other)), value)
    assert torch.equal(lwf.penalty(model, {"left": one, "right": other, "labels": torch.zeros(5)}), value)


def test_memory_says_what_the_state_takes():
    model = seeded(norms)
    lwf = LwF(1.0)
    expected = sum(tensor.numel() * tensor.element_size() for tensor in (*model.parameters(), *model.buffers()))
    assert lwf.memory(model) == {"teacher": expected}
    lwf.consolidate(model)
    lwf.consolidate(model)
    assert lwf.memory(model) == {"teacher": expected}
    file = io.BytesIO()
    torch.save(lwf.state_dict(), file)
    file.seek(0)
    assert sum(t.numel() * t.element_size() for t in torch.load(file)["teacher"].values()) == expected


@pytest.mark.parametrize("method", [LwF, KL, FeatureL2, DELTA])
def test_what_was_not_given_is_asked_for(method):
    model = seeded(Both)
    regularizer = method(1.0)
    assert regularizer.penalty(model).item() == 0
    regularizer.consolidate(model, [(numbers(6, 4), torch.arange(6) % 3)])
    with pytest.raises(ValueError, match=r"give its penalty the batch's inputs, penalty\(model, inputs, outputs\)"):
        regularizer.penalty(model)
    with pytest.raises(ValueError, match="no use for curvature="):
        regularizer.consolidate(model, curvature=object())
    regularizer.strength = 0.0
    assert regularizer.penalty(model).item() == 0


@pytest.mark.parametrize("method", [LwF, KL, FeatureL2, DELTA, BatchSpectralShrinkage])
def test_autocast_leaves_the_penalty_in_full_precision(method):
    model = seeded(norms, torch.float32)
    model.eval()
    inputs = numbers(3, 4).float()
    regularizer = method(1.0)
    regularizer.consolidate(model, [(inputs, torch.arange(3))])
    shift(model)
    plain = regularizer.penalty(model, inputs)
    with torch.autocast("cpu", torch.bfloat16):
        inside = regularizer.penalty(model, inputs)
    assert inside.dtype == torch.float32
    assert inside.item() == pytest.approx(plain.item(), rel=0.2)
    inside.backward()
    assert model[0].weight.grad.dtype == torch.float32


def test_a_model_that_draws_in_eval_mode_too_does_not_consume_the_global_generator():
    class Drawing(Both):
        def forward(self, inputs):
            return super().forward(nn.functional.dropout(inputs, 0.5, training=True))

    for method in (LwF(1.0), FeatureL2(1.0, modules="body")):
        model = seeded(Drawing)
        method.consolidate(model)
        random = torch.random.get_rng_state()
        assert method.penalty(model, numbers(5, 4)).item() == 0
        assert torch.equal(torch.random.get_rng_state(), random)
