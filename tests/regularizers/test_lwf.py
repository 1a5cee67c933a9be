"""Learning without forgetting against its formula, written out by hand."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from forgetting.regularizers import LwF
from tests.regularizers.distilled import Both, kl, numbers, seeded, shift, soft

INPUTS = numbers(5, 4)


def two_states(columns=None, **settings):
    """A method, a model that moved since it was consolidated, and its logits then and now."""
    model = seeded(Both).eval()
    lwf = LwF(strength=3.0, **settings)
    lwf.consolidate(model, outputs=columns)
    old = model(INPUTS).detach()
    shift(model)
    return lwf, model, old, model(INPUTS)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 7.0])
def test_the_value_and_the_gradient_are_the_closed_form(temperature):
    lwf, model, old, new = two_states(temperature=temperature)
    logits = new.detach().requires_grad_()
    value = lwf.penalty(model, INPUTS, logits)
    pairs = [(soft(before, temperature), soft(after, temperature)) for before, after in zip(old, new, strict=True)]
    expected = 3.0 * temperature**2 * sum(kl(p, q) for p, q in pairs) / 5
    assert value.item() == pytest.approx(expected, rel=1e-12)
    value.backward()
    slope = torch.tensor([[3.0 * temperature * (q - p) / 5 for p, q in zip(*pair, strict=True)] for pair in pairs])
    torch.testing.assert_close(logits.grad, slope.double(), rtol=1e-6, atol=1e-8)
    exact = torch.stack([torch.tensor([3.0 * temperature * (q - p) / 5 for p, q in zip(*pair, strict=True)],
                                      dtype=torch.float64) for pair in pairs])
    torch.testing.assert_close(logits.grad, exact, rtol=1e-11, atol=1e-14)


def test_the_gradient_is_that_of_the_papers_cross_entropy():
    lwf, model, old, new = two_states(temperature=2.0)
    logits = new.detach().requires_grad_()
    lwf.penalty(model, INPUTS, logits).backward()
    again = new.detach().requires_grad_()
    p, q = torch.softmax(old / 2, 1), torch.softmax(again / 2, 1)
    (-(p * q.log()).sum(1).mean() * 3.0 * 4).backward()
    torch.testing.assert_close(logits.grad, again.grad, rtol=1e-12, atol=1e-15)


def test_without_outputs_the_model_is_run_in_eval_mode():
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Dropout(0.5)).double()
    lwf = LwF(1.0)
    lwf.consolidate(model)
    assert lwf.penalty(model, INPUTS).item() == 0
    shift(model)
    statistics = model[1].running_mean.clone()
    value = lwf.penalty(model, INPUTS)
    assert torch.equal(model[1].running_mean, statistics)
    assert model.training
    assert torch.equal(lwf.penalty(model, INPUTS, model.eval()(INPUTS)), value)
    value.backward()
    assert model[0].weight.grad.abs().sum() > 0


def test_each_tasks_columns_are_a_softmax_of_their_own():
    model = seeded(lambda: nn.Linear(4, 6))
    lwf = LwF(1.0, temperature=1.0)
    lwf.consolidate(model, outputs=[0, 3])
    lwf.consolidate(model, outputs=[1, 2, 5])
    old = model(INPUTS)
    shift(model)
    new = model(INPUTS)
    expected = sum(kl(soft(before[list(columns)]), soft(after[list(columns)]))
                   for columns in ((0, 3), (1, 2, 5)) for before, after in zip(old, new, strict=True)) / 5
    assert lwf.penalty(model, INPUTS, new).item() == pytest.approx(expected, rel=1e-12)
    logits = new.detach().requires_grad_()
    lwf.penalty(model, INPUTS, logits).backward()
    assert not logits.grad[:, 4].any()
    assert logits.grad[:, [0, 1, 2, 3, 5]].all()


@pytest.mark.parametrize(("sets", "kept"), [
    ([[0, 1], [0, 1]], [[0, 1]]),
    ([[0, 1], [0, 1, 2]], [[0, 1, 2]]),
    ([[0, 1, 2], [1, 2]], [[0, 1, 2]]),
    ([[0, 1], [2, 3], [0, 1, 2, 3]], [[0, 1, 2, 3]]),
    ([[0, 1], [1, 2]], [[0, 1], [1, 2]]),
    ([[0, 1], None], [None]),
    ([None, None], [None]),
])
def test_a_head_that_several_tasks_share_counts_once(sets, kept):
    model = seeded(lambda: nn.Linear(4, 6))
    lwf = LwF(1.0)
    for columns in sets:
        lwf.consolidate(model, outputs=columns)
    found = lwf.state_dict()["columns"].values()
    assert [None if columns is None else columns.tolist() for columns in found] == kept


def test_columns_after_all_of_them_cannot_be_told_apart():
    model = seeded(Both)
    lwf = LwF(1.0)
    lwf.consolidate(model)
    with pytest.raises(ValueError, match="an earlier consolidate took all of the logits"):
        lwf.consolidate(model, outputs=[0, 1])
    shift(model)
    assert lwf.penalty(model, INPUTS).item() > 0


def test_columns_that_are_not_there_are_named():
    lwf, model, _, new = two_states([0, 4])
    with pytest.raises(ValueError, match="named column 4, and the model gave 3 columns then and gives 3 now"):
        lwf.penalty(model, INPUTS, new)
    with pytest.raises(ValueError, match="each once and from 0 on"):
        lwf.consolidate(model, outputs=[1, 1])


def test_the_teacher_is_the_model_of_the_last_consolidation():
    lwf, model, _, _ = two_states()
    lwf.consolidate(model)
    assert lwf.penalty(model, INPUTS).item() == 0


def test_outputs_of_another_batch_are_refused():
    lwf, model, _, new = two_states()
    with pytest.raises(ValueError, match=r"gave \(5, 3\) for these inputs.*the shape \(2, 3\)"):
        lwf.penalty(model, INPUTS, new[:2])
    with pytest.raises(ValueError, match="of one batch"):
        lwf.penalty(model, INPUTS, new[0])


def test_outputs_with_logits_are_unwrapped_on_both_sides():
    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = seeded(Both)

        def forward(self, inputs):
            return SimpleNamespace(logits=self.inner(inputs))

    model = Wrapped()
    lwf = LwF(1.0)
    lwf.consolidate(model)
    shift(model)
    value = lwf.penalty(model, INPUTS, model(INPUTS))
    assert value > 0
    assert torch.equal(lwf.penalty(model, INPUTS, model(INPUTS).logits), value)
    assert torch.equal(lwf.penalty(model, INPUTS), value)


def test_autocast_reaches_the_forward_passes_and_not_the_comparison():
    model = seeded(Both, torch.float32)
    inputs = INPUTS.float()
    lwf = LwF(1.0)
    lwf.consolidate(model)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = model(inputs)
        assert outputs.dtype == torch.bfloat16
        assert lwf.penalty(model, inputs, outputs).item() == 0
    shift(model)
    with torch.autocast("cpu", torch.bfloat16):  # a context keeps the weights that it rounded
        value = lwf.penalty(model, inputs, model(inputs))
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(lwf.penalty(model, inputs).item(), rel=0.05)


def test_equal_batches_weigh_alike():
    lwf, model, _, _ = two_states()
    whole = lwf.penalty(model, INPUTS[:4])
    halves = (lwf.penalty(model, INPUTS[:2]) + lwf.penalty(model, INPUTS[2:4])) / 2
    assert whole.item() == pytest.approx(halves.item(), rel=1e-12)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("inf"), float("nan")])
def test_a_temperature_is_finite_and_above_0(temperature):
    with pytest.raises(ValueError, match="finite and above 0"):
        LwF(1.0, temperature=temperature)
