"""Features held by their squares: against loops, in every way a loop can run the model."""

import copy
import pickle

import pytest
import torch
from torch import nn

from forgetting.regularizers import FeatureL2
from forgetting.regularizers.listening import usual
from tests.regularizers.distilled import Both, numbers, seeded, shift

INPUTS = numbers(5, 4)


class Block(nn.Module):
    """Convolution, norm and a shortcut."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)

    def forward(self, inputs):
        return torch.relu(self.norm(self.conv(inputs)) + inputs)


def residual():
    return nn.Sequential(Block(), nn.Sequential(Block(), nn.MaxPool2d(2)), nn.Flatten(), nn.Linear(3 * 4, 2))


def outputs_of(model, module, inputs):
    """What a module gives out, by a hook written here."""
    found = []
    hook = module.register_forward_hook(lambda _module, _inputs, output: found.append(output))
    model(inputs)
    hook.remove()
    return found[0]


def mean_square(one, other):
    """Element by element."""
    gaps = [(a - b) ** 2 for a, b in zip(one.flatten().tolist(), other.flatten().tolist(), strict=True)]
    return sum(gaps) / len(gaps)


def moved(make, **settings):
    model = seeded(make).eval()
    held = FeatureL2(strength=3.0, **settings)
    held.consolidate(model)
    old = copy.deepcopy(model)
    shift(model)
    return held, old, model


def test_the_value_is_half_the_mean_square_of_each_repeated_block():
    held, old, model = moved(residual)
    images = numbers(2, 3, 4, 4)
    assert usual(model, images) == ["0", "1.0"]
    expected = sum(mean_square(outputs_of(old, before, images), outputs_of(model, after, images))
                   for before, after in ((old[0], model[0]), (old[1][0], model[1][0])))
    assert held.penalty(model, images).item() == pytest.approx(0.5 * 3.0 * expected, rel=1e-12)


def test_the_gradient_is_that_of_finite_differences():
    held, _, model = moved(residual)
    images = numbers(2, 3, 4, 4)
    held.penalty(model, images).backward()
    for weight, place in ((model[0].conv.weight, (1, 2, 0, 1)), (model[1][0].norm.bias, (1,))):
        ends = []
        for sign in (1, -1):
            with torch.no_grad():
                weight[place] += sign * 1e-6
                ends.append(held.penalty(model, images).item())
                weight[place] -= sign * 1e-6
        assert weight.grad[place].item() == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-6)
    assert model[3].weight.grad is None


def test_modules_are_named_by_patterns_and_each_changes_something():
    values = []
    for modules in ("body", ["head"], ["b*", "h*"], lambda path: path == "body"):
        held, _, model = moved(Both, modules=modules)
        values.append(held.penalty(model, INPUTS).item())
    assert values[2] == pytest.approx(values[0] + values[1], rel=1e-12)
    assert values[3] == values[0] != values[1]
    for modules, words in (("bdy", "'bdy' matches none of the model's 2 modules: body, head; did you mean 'body'"),
                           (lambda path: False, "covers none")):
        with pytest.raises(ValueError, match=words):
            FeatureL2(1.0, modules=modules).consolidate(model)


def test_without_repeated_blocks_all_layers_count_but_the_last_to_run():
    class Backwards(nn.Module):
        def __init__(self):
            super().__init__()
            self.head, self.body, self.norm = nn.Linear(3, 2), nn.Linear(4, 3), nn.LayerNorm(3)

        def forward(self, inputs):
            return self.head(self.norm(self.body(inputs)))

    assert usual(Backwards(), torch.zeros(1, 4)) == ["body", "norm"]
    with pytest.raises(ValueError, match="a single layer"):
        usual(nn.Linear(4, 3), torch.zeros(1, 4))


def test_the_loops_own_pass_is_heard_and_no_second_one_is_made():
    model = seeded(lambda: nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 2)))
    held = FeatureL2(strength=2.0, modules="2")
    held.consolidate(model)
    old = copy.deepcopy(model).eval()
    shift(model)
    calls, given = [], []
    hooks = [model[0].register_forward_hook(lambda *_: calls.append(model.training)),
             model[2].register_forward_hook(lambda _module, _inputs, output: given.append(output))]
    with held.attach(model, torch.optim.SGD(model.parameters(), lr=0.1)):
        outputs = model(INPUTS)
        value = held.penalty(model, INPUTS, outputs)
    assert calls == [True, False]
    expected = mean_square(given[0], old[:3](INPUTS))
    assert value.item() == pytest.approx(2.0 * 0.5 * expected, rel=1e-12)
    value.backward()
    assert model[0].weight.grad.abs().sum() > 0
    calls.clear()
    held.penalty(model, INPUTS)
    assert calls == [False, False]
    for hook in hooks:
        hook.remove()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_another_batch_an_evaluation_and_a_second_use_are_not_taken_for_the_loops_pass():
    held, _, model = moved(Both, modules="body")
    expected = held.penalty(model, INPUTS)
    with held.attach(model, torch.optim.SGD(model.parameters(), lr=0.1)):
        model(numbers(5, 4, seed=12))
        assert torch.equal(held.penalty(model, INPUTS), expected)
        with torch.no_grad():
            model(INPUTS)
        value = held.penalty(model, INPUTS)
        assert value.requires_grad
        assert torch.equal(value, expected)
        model(INPUTS)
        with torch.no_grad():
            model(numbers(3, 4, seed=9))
        assert torch.equal(held.penalty(model, INPUTS), expected)
        shift(model, seed=5)
        assert not torch.equal(held.penalty(model, INPUTS), expected)


def test_copies_and_pickles_of_a_model_that_is_listened_to_are_free():
    held, _, model = moved(Both, modules="body")
    calls = []
    with held.attach(model, torch.optim.SGD(model.parameters(), lr=0.1)):
        twins = [copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
        model.head.register_forward_hook(lambda *_: calls.append(torch.is_grad_enabled()))
        model(INPUTS)
        for twin in twins:
            shift(twin, seed=6)
            twin(INPUTS)
        again = copy.deepcopy(held)
        value = held.penalty(model, INPUTS)
        assert calls == [True, False]
        assert torch.equal(again.penalty(model, INPUTS), value)
        assert "teacher" in held.state_dict()


def test_a_compiled_loop_is_right_whether_it_is_heard_or_not():
    held, _, model = moved(Both, modules="body")
    expected = held.penalty(model, INPUTS)
    compiled = torch.compile(model, backend="eager")
    compiled(INPUTS)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        with held.attach(compiled, optimizer):
            for _ in range(2):
                value = held.penalty(compiled, INPUTS, compiled(INPUTS))
                torch.testing.assert_close(value, expected)
                assert value.requires_grad
        torch.compiler.reset()


def test_a_new_head_in_place_of_the_old_one_does_not_matter():
    held, _, model = moved(Both, modules="body")
    expected = held.penalty(model, INPUTS)
    model.head = nn.Linear(6, 10).double()
    assert torch.equal(held.penalty(model, INPUTS), expected)


def test_a_module_that_runs_twice_counts_twice():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, inputs):
            return self.layer(torch.tanh(self.layer(inputs)))

    held, old, model = moved(Twice, modules="layer")
    before, after = old.layer(INPUTS), model.layer(INPUTS)
    expected = mean_square(before, after) + mean_square(old(INPUTS), model(INPUTS))
    assert held.penalty(model, INPUTS).item() == pytest.approx(1.5 * expected, rel=1e-12)


class Tokens(nn.Module):
    """Two transformer-like blocks that return tuples."""

    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(4, 4)

        def forward(self, hidden):
            return (hidden + torch.tanh(self.inner(hidden)), None)

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.layers = nn.ModuleList([Tokens.Layer(), Tokens.Layer()])

    def forward(self, input_ids, attention_mask=None):
        hidden = self.embed(input_ids)
        for layer in self.layers:
            hidden = layer(hidden)[0]
        return {"logits": hidden}


def test_positions_outside_the_attention_mask_do_not_count():
    held, old, model = moved(Tokens)
    ids, mask = torch.tensor([[1, 2, 3], [4, 5, 0]]), torch.tensor([[1, 1, 1], [1, 1, 0]])
    expected = 0.0
    for index in (0, 1):
        before, after = (outputs_of(each, each.layers[index], ids)[0][mask.bool()] for each in (old, model))
        expected += mean_square(before, after)
    value = held.penalty(model, {"input_ids": ids, "attention_mask": mask})
    assert value.item() == pytest.approx(1.5 * expected, rel=1e-12)


def test_what_cannot_be_compared_is_named():
    held, _, model = moved(Both, modules="body")
    model.body = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 6)).double()
    with pytest.raises(ValueError, match="no longer has 'body.weight'"):
        held.penalty(model, INPUTS)
    model = seeded(Both)
    model.second = nn.Linear(6, 2).double()
    model.idle = nn.Linear(1, 1).double()
    held = FeatureL2(1.0, modules="idle")
    held.consolidate(model)
    with pytest.raises(ValueError, match="'idle' does not run"):
        held.penalty(model, INPUTS)
    held = FeatureL2(1.0, modules="body")
    held.consolidate(model)
    state = held.state_dict()
    del model.body
    model.body_of_another_name = nn.Linear(4, 6)
    with pytest.raises(ValueError, match="no longer has"):
        held.penalty(model, INPUTS)
    again = FeatureL2(1.0, modules="head")
    again.load_state_dict(state)
    whole = seeded(Both)
    whole.second, whole.idle = nn.Linear(6, 2).double(), nn.Linear(1, 1).double()
    whole.load_state_dict(state["teacher"])
    shift(whole)
    assert again.penalty(whole, INPUTS).item() > 0
