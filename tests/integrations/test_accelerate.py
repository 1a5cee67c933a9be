"""A loop with accelerate trains as the slow obvious one: the pull comes at true steps alone."""

import copy

import pytest
import torch

from forgetting import EWC, SI
from tests.integrations.loops import STRENGTH, Collated, apart, chunks, gpt, held, plain, sequences
from tests.integrations.test_trainer import adamw, own_chance, sgd  # noqa: F401

accelerate = pytest.importorskip("accelerate", reason="the extra 'hf' is not installed")


def accelerated(model, regularizer, make, accumulation, *, clip=0.0, early=False, mode="gradient"):
    """Twenty steps of accelerate's own loop; what was learned from."""
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=accumulation)
    collated, optimizer = Collated(), make(model)
    handle = regularizer.attach(model, optimizer, mode=mode) if early else None
    loader = torch.utils.data.DataLoader(sequences(2 * 20 * accumulation), 2, collate_fn=collated)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    handle = handle or regularizer.attach(model, optimizer.optimizer, mode=mode)
    model.train()
    with handle:
        for batch in loader:
            with accelerator.accumulate(model):
                accelerator.backward(model(**batch).loss)
                if clip and accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), clip)
                optimizer.step()
                optimizer.zero_grad()
    return chunks(collated.batches, accumulation)


@pytest.mark.parametrize("clip", [0.0, 0.3])
@pytest.mark.parametrize("accumulation", [1, 4, 8])
@pytest.mark.parametrize("make", [sgd, adamw])
def test_the_weights_are_those_of_a_plain_loop(make, accumulation, clip):
    model = gpt()
    plainly, ewc = copy.deepcopy(model), held(model)
    steps = accelerated(model, ewc, make, accumulation, clip=clip)
    assert len(steps) == 20
    plain(plainly, steps, make(plainly), clip=clip, ewc=ewc, by_items=False)
    assert apart(model, plainly, key_bias=make is sgd) < 1e-5


def test_a_regularizer_may_be_attached_before_prepare():
    model = gpt()
    again, ewc = copy.deepcopy(model), held(model)
    accelerated(model, ewc, sgd, 4)
    accelerated(again, ewc, sgd, 4, early=True)
    assert apart(model, again) == 0


def test_accelerate_saves_and_loads_what_was_consolidated(tmp_path):
    model = gpt()
    ewc, anew = held(model), EWC(STRENGTH)
    for known, act in ((ewc, "save_state"), (anew, "load_state")):
        accelerator = accelerate.Accelerator(cpu=True)
        accelerator.register_for_checkpointing(known)
        getattr(accelerator, act)(str(tmp_path))
    assert anew.penalty(model).item() == ewc.penalty(model).item() > 0


def test_a_path_method_hears_each_true_step_once():
    model, si = gpt(), SI(1.0)
    heard = []
    add = si._add
    si._add = lambda *given: heard.append(1) or add(*given)
    accelerated(model, si, sgd, 4)
    assert len(heard) == 20


def test_an_optimizer_that_hands_its_steps_on_is_refused_with_the_one_inside():
    model = gpt()
    optimizer = accelerate.Accelerator(cpu=True).prepare(sgd(model))
    for mode in ("loss", "gradient", "proximal"):
        with pytest.raises(TypeError, match=r"AcceleratedOptimizer hands its steps on.*optimizer\.optimizer"):
            SI(1.0).attach(model, optimizer, mode=mode)
