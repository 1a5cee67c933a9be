"""``anchors="separate"`` is the sum of one penalty a task, at the cost of one."""

import copy

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import example, given

from forgetting.curvature import Diagonal, Identity
from forgetting.regularizers import EWC
from tests.regularizers.small import Weights, importances, move

TASKS = 5


def five_tasks(dtype, count=4000, spread=1.0):
    """A model elsewhere, EWC after five tasks, and the five (importance, anchor) pairs in float64."""
    model = Weights(a=torch.zeros(count, dtype=dtype), b=torch.zeros(7, 3, dtype=dtype))
    ewc, pairs = EWC(strength=3.0, anchors="separate"), []
    for task in range(TASKS):
        move(model, task, spread)
        matrix = importances(model, 100 + task)
        ewc.consolidate(model, curvature=matrix)
        pairs.append({n: (matrix[n].double(), w.detach().double().clone()) for n, w in model.named_parameters()})
    move(model, 99, spread)
    return model, ewc, pairs


def naive(model, pairs, strength):
    """Five penalties added up in float64, and their gradient."""
    weights = {name: weight.detach().double().requires_grad_() for name, weight in model.named_parameters()}
    value = sum(0.5 * strength * (f * (weights[n] - anchor).square()).sum()
                for pair in pairs for n, (f, anchor) in pair.items())
    value.backward()
    return value.item(), {name: weight.grad for name, weight in weights.items()}


def test_five_tasks_equal_the_naive_sum_in_float64():
    model, ewc, pairs = five_tasks(torch.float64)
    value, gradients = naive(model, pairs, 3.0)
    penalty = ewc.penalty(model)
    penalty.backward()
    assert penalty.item() == pytest.approx(value, rel=1e-12)
    pull = ewc.pull(model)
    for name, weight in model.named_parameters():
        scale = gradients[name].abs().max()
        assert (weight.grad - gradients[name]).abs().max() <= 1e-12 * scale
        assert (pull[name] - gradients[name]).abs().max() <= 1e-12 * scale


@pytest.mark.parametrize("spread", [1.0, 0.1, 1e-3])
def test_five_tasks_equal_the_naive_sum_in_float32(spread):
    model, ewc, pairs = five_tasks(torch.float32, count=50_000, spread=spread)
    value, gradients = naive(model, pairs, 3.0)
    penalty = ewc.penalty(model)
    penalty.backward()
    assert penalty.dtype == torch.float32
    assert penalty.item() == pytest.approx(value, rel=1e-5)
    for name, weight in model.named_parameters():
        total = sum(pair[name][0] for pair in pairs)
        middle = sum(f * anchor for f, anchor in (pair[name] for pair in pairs)) / total.clamp(min=1e-300)
        bound = 4 * torch.finfo(torch.float32).eps * 3.0 * total * (weight.detach().double().abs() + middle.abs())
        assert ((weight.grad.double() - gradients[name]).abs() <= bound).all()
        assert (weight.grad[total == 0] == 0).all()
        assert (total == 0).any() or name == "b"


def test_f16_memory_is_that_of_one_task():
    def held(ewc):
        state = ewc.state_dict()
        tensors = [*state["anchor"].values(), *state["curvature"]["values"].values(),
                   *state["rests"]["anchor"].values(), *state["rests"]["curvature"].values()]
        return sum(tensor.untyped_storage().nbytes() for tensor in tensors), len(state), len(tensors)

    model = Weights(a=torch.zeros(1000))
    ewc = EWC(1.0, anchors="separate")
    sizes = []
    for task in range(TASKS):
        move(model, task)
        ewc.consolidate(model, curvature=importances(model, task))
        sizes.append(held(ewc))
    assert set(sizes) == {sizes[0]}
    assert sizes[0][0] == 4 * 1000 * 4


def test_nowhere_important_weights_follow_and_add_nothing():
    model = Weights(a=torch.tensor([1.0, 1.0]))
    ewc = EWC(1.0, anchors="separate")
    nothing = Diagonal({"a": torch.tensor([0.0, 1.0])})
    ewc.consolidate(model, curvature=nothing)
    model.a.data.fill_(5.0)
    ewc.consolidate(model, curvature=nothing)
    assert ewc.consolidated.anchor["a"].tolist() == [5.0, 3.0]
    assert ewc.consolidated.constant == 8.0
    assert ewc.consolidated.tasks == 2
    assert ewc.pull(model)["a"].tolist() == [0.0, 4.0]


@given(
    st.lists(st.tuples(st.sampled_from([0.0, 1e-30, 1e-3, 1.0, 7.0, 1e20]), st.floats(-100, 100)),
             min_size=1, max_size=6),
    st.sampled_from([0.0, 0.5, 1.0]),
    st.floats(-100, 100),
)
@example([(1.0, 1.0), (0.0, 5.0)], 0.0, 2.0)
@example([(1.0, 0.0), (1.0, 4.0), (7.0, 1.0)], 0.5, 2.0)
def test_any_tasks_with_any_decay_equal_the_decayed_sum(tasks, decay, place):
    model = Weights(a=torch.zeros(1, dtype=torch.float64))
    ewc = EWC(2.0, anchors="separate", decay=decay)
    for importance, anchor in tasks:
        model.a.data.fill_(anchor)
        ewc.consolidate(model, curvature=Diagonal({"a": torch.tensor([importance], dtype=torch.float64)}))
    model.a.data.fill_(place)
    expected = sum(decay ** (len(tasks) - 1 - index) * f * (place - anchor) ** 2
                   for index, (f, anchor) in enumerate(tasks))
    scale = sum(f * (abs(place) + abs(anchor)) ** 2 for f, anchor in tasks)
    assert ewc.penalty(model).item() == pytest.approx(expected, rel=1e-9, abs=1e-12 * scale)


def test_latest_anchors_pull_to_the_last_weights_with_the_decayed_sum():
    model = Weights(a=torch.zeros(2))
    ewc = EWC(1.0, decay=0.5)
    ewc.consolidate(model, curvature=Diagonal({"a": torch.tensor([4.0, 0.0])}))
    model.a.data.fill_(1.0)
    ewc.consolidate(model, curvature=Diagonal({"a": torch.tensor([1.0, 6.0])}))
    assert ewc.penalty(model).item() == 0.0
    model.a.data.add_(2.0)
    assert ewc.pull(model)["a"].tolist() == [6.0, 12.0]
    assert ewc.penalty(model).item() == 18.0


@pytest.mark.parametrize("anchors", ["latest", "separate"])
def test_a_parameter_new_to_the_old_matrix_counts_as_zero_there(anchors):
    model = Weights(a=torch.ones(2))
    ewc = EWC(1.0, anchors=anchors)
    ewc.consolidate(model, curvature=Diagonal({"a": torch.ones(2)}))
    model.register_parameter("head", torch.nn.Parameter(torch.full((3,), 2.0)))
    assert ewc.penalty(model).item() == 0.0
    model.head.data.add_(1.0)
    assert set(ewc.pull(model)) == {"a"}
    ewc.consolidate(model, curvature=Diagonal({"a": torch.ones(2), "head": torch.ones(3)}))
    model.head.data.add_(1.0)
    assert ewc.pull(model)["head"].tolist() == [1.0, 1.0, 1.0]
    assert ewc.penalty(model).item() == 1.5


def test_only_diagonals_merge():
    model = Weights(a=torch.ones(2))
    with pytest.raises(TypeError, match="merges diagonals; a Identity needs anchors='latest'"):
        EWC(1.0, anchors="separate").consolidate(model, curvature=Identity({"a": 1.0}))


def test_the_present_value_of_a_copy_does_not_change_with_its_origin():
    model, ewc, _ = five_tasks(torch.float32, count=10)
    twin = copy.deepcopy(ewc)
    before = twin.penalty(model)
    ewc.consolidate(model, curvature=importances(model, 7))
    assert torch.equal(twin.penalty(model), before)


def test_a_state_continues_bit_for_bit():
    model = Weights(a=torch.zeros(1000))
    ewc, again = EWC(1.0, anchors="separate"), EWC(1.0, anchors="separate")
    for task in range(TASKS):
        move(model, task)
        ewc.consolidate(model, curvature=importances(model, task))
        if task == 2:
            again.load_state_dict(ewc.state_dict())
        if task > 2:
            again.consolidate(model, curvature=importances(model, task))
    assert torch.equal(again.consolidated.anchor["a"], ewc.consolidated.anchor["a"])
    assert torch.equal(again.consolidated.rests["anchor"]["a"], ewc.consolidated.rests["anchor"]["a"])
    assert again.consolidated.constant == ewc.consolidated.constant
