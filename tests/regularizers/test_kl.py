"""The divergence from the old model, in both directions, by hand; with positions and with masked targets."""

import copy

import pytest
import torch
from torch import nn

from forgetting.regularizers import KL, LwF
from tests.regularizers.distilled import Both, kl, numbers, seeded, shift, soft

INPUTS = numbers(5, 4)


class Language(nn.Module):
    """Tokens to logits, a position at a time."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(7, 6)
        self.head = nn.Linear(6, 7)

    def forward(self, input_ids, attention_mask=None):
        return {"logits": self.head(torch.tanh(self.embed(input_ids)).cumsum(1))}


def moved(make, **settings):
    """A method, and the model before and after it moved."""
    model = seeded(make).eval()
    method = KL(strength=3.0, **settings)
    method.consolidate(model)
    old = copy.deepcopy(model)
    shift(model)
    return method, old, model


def between(direction, before, after):
    p, q = soft(before), soft(after)
    return kl(p, q) if direction == "forward" else kl(q, p)


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_the_value_and_the_gradient_are_the_definition(direction):
    method, old, model = moved(Both, direction=direction)
    before, logits = old(INPUTS), model(INPUTS).detach().requires_grad_()
    value = method.penalty(model, INPUTS, logits)
    expected = 3.0 * sum(between(direction, *pair) for pair in zip(before, logits, strict=True)) / 5
    assert value.item() == pytest.approx(expected, rel=1e-12)
    value.backward()
    step = 1e-6
    for row in range(5):
        for column in range(3):
            ends = []
            for sign in (1, -1):
                bent = logits.detach().clone()
                bent[row, column] += sign * step
                ends.append(sum(between(direction, *pair) for pair in zip(before, bent, strict=True)))
            slope = 3.0 * (ends[0] - ends[1]) / (2 * step) / 5
            assert logits.grad[row, column].item() == pytest.approx(slope, abs=1e-8)


def test_forward_is_learning_without_forgetting_at_temperature_1():
    method, _, model = moved(Both)
    lwf = LwF(3.0, temperature=1.0)
    state = method.state_dict()
    lwf.load_state_dict(state | {"class": "LwF"})
    assert torch.equal(lwf.penalty(model, INPUTS), method.penalty(model, INPUTS))


def test_f14_each_argument_changes_something():
    values = []
    cases = (({}, None), ({"direction": "reverse"}, None), ({"masked": "target"}, torch.arange(5) % 3))
    for settings, targets in cases:
        method, _, model = moved(Both, **settings)
        values.append(method.penalty(model, INPUTS, None, targets).item())
    assert len(set(values)) == 3


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_the_target_is_taken_out_of_both(direction):
    method, old, model = moved(Both, direction=direction, masked="target")
    assert method.needs_targets
    targets = torch.tensor([0, 1, 2, -100, 1])
    before, logits = old(INPUTS), model(INPUTS).detach().requires_grad_()
    value = method.penalty(model, INPUTS, logits, targets)
    total = 0.0
    for row in (0, 1, 2, 4):
        rest = [column for column in range(3) if column != targets[row]]
        total += between(direction, before[row, rest], logits[row, rest])
    assert value.item() == pytest.approx(3.0 * total / 4, rel=1e-12)
    value.backward()
    assert torch.isfinite(logits.grad).all()
    assert not logits.grad[3].any()
    for row in (0, 1, 2, 4):
        assert logits.grad[row, targets[row]] == 0
        assert logits.grad[row].abs().max() > 1e-4


def test_a_target_that_the_old_model_did_not_have_takes_nothing_out():
    model = seeded(lambda: nn.Linear(4, 3))
    plain, masked = KL(1.0), KL(1.0, masked="target")
    for method in (plain, masked):
        method.consolidate(model, outputs=[0, 1])
    shift(model)
    assert torch.equal(masked.penalty(model, INPUTS, None, torch.full((5,), 2)), plain.penalty(model, INPUTS))


def test_large_logits_and_a_single_other_class_stay_finite():
    model = nn.Linear(4, 2)
    method = KL(1.0, masked="target")
    method.consolidate(model)
    logits = torch.tensor([[1e4, -1e4], [3e4, 0.0]], requires_grad=True)
    value = method.penalty(model, numbers(2, 4).float(), logits, torch.tensor([0, 0]))
    assert value.item() == 0
    value.backward()
    assert not logits.grad.any()


TOKENS = torch.tensor([[1, 2, 3, 4], [5, 6, 0, 0], [0, 3, 2, 1]])
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [0, 1, 1, 1]])


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_positions_of_a_language_model_count_where_the_mask_says(direction):
    method, old, model = moved(Language, direction=direction)
    inputs = {"input_ids": TOKENS, "attention_mask": MASK}
    before, after = old(TOKENS)["logits"], model(TOKENS)["logits"]
    places = [(row, place) for row in range(3) for place in range(4) if MASK[row, place]]
    expected = 3.0 * sum(between(direction, before[at], after[at]) for at in places) / len(places)
    assert len(places) == 9
    assert method.penalty(model, inputs, model(**inputs)).item() == pytest.approx(expected, rel=1e-12)
    everywhere = 3.0 * sum(between(direction, before[row, place], after[row, place])
                           for row in range(3) for place in range(4)) / 12
    assert method.penalty(model, {"input_ids": TOKENS}).item() == pytest.approx(everywhere, rel=1e-12)


def test_what_stands_at_padding_does_not_matter_even_where_it_is_not_a_number():
    method, _, model = moved(Language)
    inputs = {"input_ids": TOKENS, "attention_mask": MASK}
    logits = model(TOKENS)["logits"].detach()
    value = method.penalty(model, inputs, logits)
    spoilt = logits.masked_fill(MASK.unsqueeze(-1) == 0, float("nan")).requires_grad_()
    again = method.penalty(model, inputs, spoilt)
    assert torch.equal(again, value)
    again.backward()
    assert torch.isfinite(spoilt.grad).all()


@pytest.mark.parametrize("labels", [None, torch.tensor([[-100, -100, 3, 4], [-100, 6, -100, -100], [-100, 3, 2, 1]])])
def test_the_next_token_is_taken_out(labels):
    method, old, model = moved(Language, masked="next token")
    assert not method.needs_targets
    inputs = {"input_ids": TOKENS, "attention_mask": MASK} | ({} if labels is None else {"labels": labels})
    before, after = old(TOKENS)["logits"], model(TOKENS)["logits"]
    told = torch.where(MASK.bool(), TOKENS, -100) if labels is None else labels
    total, count = 0.0, 0
    for row in range(3):
        for place in range(3):
            following = int(told[row, place + 1])
            if following == -100 or not MASK[row, place]:
                continue
            rest = [token for token in range(7) if token != following]
            total, count = total + kl(soft(before[row, place, rest]), soft(after[row, place, rest])), count + 1
    assert count == (6 if labels is None else 5)
    assert method.penalty(model, inputs).item() == pytest.approx(3.0 * total / count, rel=1e-12)


def test_a_batch_in_which_nothing_counts_is_0():
    method, _, model = moved(Language)
    value = method.penalty(model, {"input_ids": TOKENS, "attention_mask": torch.zeros_like(MASK)})
    assert value.item() == 0
    value.backward()


def test_what_does_not_fit_is_said():
    method, _, model = moved(Language)
    with pytest.raises(ValueError, match=r"attention_mask has the shape \(3, 2\).*\(3, 4\)"):
        method.penalty(model, {"input_ids": TOKENS, "attention_mask": MASK[:, :2]})
    with pytest.raises(ValueError, match="targets= are read with masked='target' only"):
        method.penalty(model, {"input_ids": TOKENS}, None, TOKENS)
    for settings, words in (({"direction": "both"}, "direction='both' does not exist"),
                            ({"masked": "class"}, "masked='class' does not exist")):
        with pytest.raises(ValueError, match=words):
            KL(1.0, **settings)
    method, _, model = moved(Both, masked="target")
    with pytest.raises(ValueError, match=r"give them, penalty\(model, inputs, outputs, targets\)"):
        method.penalty(model, INPUTS)
    with pytest.raises(ValueError, match=r"need a column number at each of \(5,\)"):
        method.penalty(model, INPUTS, None, torch.zeros(4, dtype=torch.long))
    method, _, model = moved(Both, masked="next token")
    with pytest.raises(ValueError, match="reads labels or input_ids"):
        method.penalty(model, INPUTS)
