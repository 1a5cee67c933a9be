"""The frozen copy after the model changed: wrapped, grown or rebuilt, it is right or refused by name."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from forgetting.regularizers import FeatureL2, LwF
from forgetting.regularizers import teacher as room
from forgetting.regularizers.teacher import Teacher
from tests.regularizers.distilled import Both, Tied, norms, numbers, seeded, shift


@pytest.mark.parametrize("wrap", [
    nn.DataParallel, lambda model: torch.compile(model, backend="eager"),
    lambda model: nn.DataParallel(torch.compile(model, backend="eager")),
], ids=["data parallel", "compiled", "both"])
def test_a_wrapped_model_is_the_model(wrap):
    model = seeded(norms)
    inputs = numbers(7, 4)
    bare, wrapped = LwF(1.0), LwF(1.0)
    bare.consolidate(model)
    wrapped.consolidate(wrap(model))
    assert list(bare.state_dict()["teacher"]) == list(wrapped.state_dict()["teacher"])
    shift(model)
    value = bare.penalty(model, inputs)
    assert torch.equal(wrapped.penalty(model, inputs), value)
    assert torch.equal(bare.penalty(wrap(model), inputs), value)


def test_a_model_with_a_compiled_part_is_the_model():
    model, twin = seeded(norms), seeded(norms)
    twin[0] = torch.compile(twin[0], backend="eager")
    values = []
    for each in (model, twin):
        lwf = LwF(1.0)
        lwf.consolidate(each)
        each(numbers(7, 4))
        shift(each)
        values.append(lwf.penalty(each, numbers(7, 4)))
    assert values[0] > 0
    assert torch.equal(*values)


def test_tied_weights_are_copied_once_and_stay_tied():
    model = seeded(Tied)
    assert sorted(Teacher.of(model).values) == ["first.weight", "second.bias"]
    model = seeded(Tied)
    lwf = LwF(1.0)
    lwf.consolidate(model)
    model.second.weight = nn.Parameter(model.first.weight.detach().clone())
    with pytest.raises(ValueError, match="depends on 'second.weight', which the model has gained"):
        lwf.penalty(model, numbers(5, 4))


def test_a_second_head_beside_the_old_one_is_right():
    model = seeded(Both)
    inputs = numbers(5, 4)
    lwf, held = LwF(1.0), FeatureL2(1.0, modules="body")
    lwf.consolidate(model, outputs=range(3))
    held.consolidate(model)
    shift(model)
    values = [method.penalty(model, inputs) for method in (lwf, held)]
    model.second = seeded(lambda: nn.Linear(6, 2), seed=5)
    assert [method.penalty(model, inputs) for method in (lwf, held)] == values
    lwf.penalty(model, inputs).backward()
    assert model.second.weight.grad is None or not model.second.weight.grad.any()
    unnamed = LwF(1.0)
    unnamed.consolidate(seeded(Both))
    with pytest.raises(ValueError, match=r"depends on 'second.weight', 'second.bias'.*gained.*outputs=…"):
        unnamed.penalty(model, inputs)


def test_a_head_that_grew_is_compared_where_it_was():
    model = seeded(lambda: nn.Linear(4, 3))
    old = copy.deepcopy(model)
    inputs = numbers(5, 4)
    lwf = LwF(1.0)
    lwf.consolidate(model)
    grown = seeded(lambda: nn.Linear(4, 5), seed=7)
    with torch.no_grad():
        grown.weight[:3], grown.bias[:3] = old.weight + 0.1, old.bias
    narrow = seeded(lambda: nn.Linear(4, 3))
    with torch.no_grad():
        narrow.weight.copy_(old.weight + 0.1)
    assert lwf.penalty(grown, inputs).item() == pytest.approx(lwf.penalty(narrow, inputs).item(), rel=1e-12)
    with pytest.raises(ValueError, match="gave 3 columns at consolidate and gives 2 now"):
        lwf.penalty(seeded(lambda: nn.Linear(4, 2)), inputs)


def test_an_adapter_that_came_later_is_refused_by_name():
    model = seeded(Both)
    lwf, held = LwF(1.0), FeatureL2(1.0, modules="body")
    lwf.consolidate(model)
    held.consolidate(model)

    class Adapted(nn.Linear):
        def __init__(self):
            super().__init__(4, 6)
            self.low = nn.Parameter(torch.zeros(6, 4))

        def forward(self, inputs):
            return super().forward(inputs) + inputs @ self.low.T

    model.body = seeded(Adapted)
    for method in (lwf, held):
        with pytest.raises(ValueError, match="depends on 'body.low', which the model has gained"):
            method.penalty(model, numbers(5, 4))


def test_a_layer_that_is_gone_is_named():
    model = seeded(norms)
    lwf = LwF(1.0)
    lwf.consolidate(model)
    model[4] = nn.Identity()
    with pytest.raises(ValueError, match=r"no longer has '4.weight', '4.bias'.*consolidate after"):
        lwf.penalty(model, numbers(5, 4))
    model[0] = parametrizations.weight_norm(nn.Linear(4, 6)).double()
    with pytest.raises(ValueError, match=r"no longer has '0.weight'"):
        lwf.penalty(model, numbers(5, 4))


def test_a_shape_that_the_code_refuses_is_named():
    model = nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6)).double()
    lwf = LwF(1.0)
    lwf.consolidate(model)
    model[0], model[1] = nn.Linear(4, 8).double(), nn.LayerNorm(8).double()
    with pytest.raises(ValueError, match=r"'0.weight', '0.bias', '1.weight', '1.bias' changed shape"):
        lwf.penalty(model, numbers(5, 4))


def test_shards_are_refused_by_name(monkeypatch):
    monkeypatch.setattr(room, "sharded", lambda tensor: True)
    with pytest.raises(TypeError, match="Both lies in shards"):
        LwF(1.0).consolidate(seeded(Both))


def test_it_follows_the_model_to_another_dtype_and_remembers_in_its_own():
    model = seeded(norms)
    lwf = LwF(1.0)
    lwf.consolidate(model)
    shift(model)
    value = lwf.penalty(model, numbers(5, 4))
    model.float()
    assert lwf.penalty(model, numbers(5, 4).float()).item() == pytest.approx(value.item(), rel=1e-4)
    state = lwf.state_dict()["teacher"]
    assert state["0.weight"].dtype == torch.float64  # what is remembered is not rounded by a look
    assert state["1.num_batches_tracked"].dtype == torch.int64
