"""What a penalty does to training, and what it must not do."""

import copy

import pytest
import torch
from torch import nn

from tests.contract.rows import EXEMPT, ROWS, examples, learned, make, network, penalty

STEPS = 4


def modes(only=None, promise=None):
    """Every row with every mode that its class offers, but those that are exempt from a promise."""
    pairs = [(row, mode) for row in ROWS for mode in make(row).modes
             if (only is None or mode in only) and (row, promise) not in EXEMPT]
    return pytest.mark.parametrize(("row", "mode"), pairs)


def train(model, regularizer, mode, *, optimizer="adamw", accumulate=1, rate=1e-2):
    """A few steps of fine-tuning on examples of another task; the data order and dropout are the same each time."""
    kinds = {"adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}
    stepper = kinds[optimizer](model.parameters(), lr=rate, weight_decay=0.1)
    model.train()
    model[1].eval()
    model[3].eval()
    handle = regularizer.attach(model, stepper, mode=mode) if regularizer is not None else None
    for step in range(STEPS):
        inputs, targets = examples(16, seed=50 + step, dtype=next(model.parameters()).dtype)
        for part, labels in zip(inputs.chunk(accumulate), targets.chunk(accumulate), strict=True):
            loss = nn.functional.cross_entropy(model(part), labels)
            if regularizer is not None and mode == "loss":
                loss = loss + regularizer.penalty(model, part)
            (loss / accumulate).backward()
        stepper.step()
        stepper.zero_grad()
    if handle is not None:
        handle.remove()
    assert not stepper._optimizer_step_pre_hooks
    assert not stepper._optimizer_step_post_hooks
    return model.state_dict()


def same(left, right):
    """Bit for bit."""
    return all(torch.equal(left[name], right[name]) for name in left)


@modes()
@pytest.mark.parametrize("when", ["before consolidation", "after it"])
def test_strength_0_is_bit_identical_to_no_method(row, mode, when):
    start = network(torch.float32)
    regularizer = make(row, 0.0)
    if when == "after it":
        regularizer = learned(row, start, strength=0.0, dtype=torch.float32)
    bare = train(copy.deepcopy(start), None, mode)
    # What the loss does not reach has no gradient; a gradient of 0 would let the weight decay move it.
    assert torch.equal(bare["2.unused"], start[2].unused)
    assert same(train(copy.deepcopy(start), regularizer, mode), bare)


@modes()
def test_a_method_without_knowledge_is_bit_identical_to_none(row, mode):
    start = network(torch.float32)
    assert same(train(copy.deepcopy(start), make(row, 1e3), mode), train(copy.deepcopy(start), None, mode))


@modes()
def test_strength_above_0_differs_and_holds(row, mode):
    start = network()
    regularizer = learned(row, start, strength=30.0)
    free, held = (train(copy.deepcopy(start), which, mode, optimizer="sgd") for which in (None, regularizer))
    assert not same(free, held)

    def left(state):
        model = network()
        model.load_state_dict(state)
        return penalty(regularizer, model).item()

    assert left(held) < left(free)


@modes(promise="accumulation")
@pytest.mark.parametrize("accumulate", [2, 4, 8])
def test_accumulation_changes_nothing(row, mode, accumulate):
    start = network()
    regularizer = learned(row, start, strength=10.0)
    whole, parts = (train(copy.deepcopy(start), regularizer, mode, optimizer="sgd", accumulate=k)
                    for k in (1, accumulate))
    for name, tensor in whole.items():
        torch.testing.assert_close(parts[name], tensor, rtol=1e-10, atol=1e-12)
