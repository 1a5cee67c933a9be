"""transformers' Trainer with a callback of ours trains as the slow obvious loop does."""

import copy

import pytest
import torch

from forgetting import EWC, SI, LwF
from forgetting.integrations.transformers import PenaltyInLoss, as_trainer_callback
from forgetting.regularizers import FeatureL2
from tests.integrations.loops import Collated, apart, chunks, gpt, held, plain, sequences

pytest.importorskip("accelerate", reason="the extra 'hf' is not installed")
transformers = pytest.importorskip("transformers", reason="the extra 'hf' is not installed")


class Held(PenaltyInLoss, transformers.Trainer):
    """A Trainer whose loss holds penalties."""


class Naive(transformers.Trainer):
    """The obvious override (fault F17)."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        loss = super().compute_loss(model, inputs, num_items_in_batch=num_items_in_batch)
        return loss + self.regularizer.penalty(model)


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)


def adamw(model):
    return torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.01)


def trainer(model, folder, callbacks=(), *, kind=transformers.Trainer, optimizer=sgd, examples=None, collated=None,
            **settings):
    """A Trainer on the CPU that says nothing."""
    settings = {"max_steps": 20, "max_grad_norm": 0.0, "save_strategy": "no", "logging_steps": 5, **settings}
    arguments = transformers.TrainingArguments(
        str(folder), per_device_train_batch_size=2, lr_scheduler_type="constant", report_to="none", use_cpu=True,
        disable_tqdm=True, **settings)
    made = kind(model, arguments, train_dataset=examples or sequences(2 * 8 * 20), callbacks=list(callbacks),
                data_collator=collated or Collated(), optimizers=(optimizer(model), None))
    made.remove_callback(transformers.PrinterCallback)
    return made


@pytest.fixture(autouse=True)
def own_chance():
    with torch.random.fork_rng():
        yield


@pytest.mark.parametrize("clip", [0.0, 0.3])
@pytest.mark.parametrize("accumulation", [1, 4, 8])
@pytest.mark.parametrize("optimizer", [sgd, adamw])
def test_the_weights_are_those_of_a_plain_loop_with_the_pull_outside_the_clip(optimizer, accumulation, clip, tmp_path):
    model, collated = gpt(), Collated()
    plainly, inside, ewc = copy.deepcopy(model), copy.deepcopy(model), held(model)
    trainer(model, tmp_path, [as_trainer_callback(ewc)], optimizer=optimizer, collated=collated, max_grad_norm=clip,
            gradient_accumulation_steps=accumulation).train()
    steps = chunks(collated.batches, accumulation)[:20]
    plain(plainly, steps, optimizer(plainly), clip=clip, ewc=ewc)
    assert apart(model, plainly, key_bias=optimizer is sgd) < 1e-5
    if clip:
        plain(inside, steps, optimizer(inside), clip=clip, ewc=ewc, inside=True)
        assert apart(model, inside) > 1e-3


@pytest.mark.parametrize("by_items", [True, False])
@pytest.mark.parametrize("clip", [0.0, 0.3])
def test_a_penalty_in_the_loss_counts_once_a_step_inside_the_clip(clip, by_items, tmp_path):
    """Twenty batches an epoch and eight a step: the last step of each epoch has four."""
    model, collated = gpt(), Collated()
    plainly, ewc = copy.deepcopy(model), held(model)
    model.accepts_loss_kwargs = by_items
    trainer(model, tmp_path, [as_trainer_callback(ewc, mode="loss")], kind=Held, collated=collated, max_steps=9,
            examples=sequences(40), max_grad_norm=clip, gradient_accumulation_steps=8).train()
    steps = chunks(collated.batches[:60], 8, epoch=20)
    plain(plainly, steps, sgd(plainly), clip=clip, ewc=ewc, inside=True, by_items=by_items)
    assert len(steps) == 9
    assert apart(model, plainly) < 1e-5


@pytest.mark.parametrize("accumulation", [1, 2, 4, 8])
def test_f17_a_penalty_added_in_compute_loss_counts_once_a_micro_batch_and_ours_once(accumulation, tmp_path):
    model, settings = gpt(), {"max_steps": 6, "gradient_accumulation_steps": accumulation}
    naive, once, often = (copy.deepcopy(model) for _ in range(3))
    ewc, collated = held(model, strength=0.5), Collated()
    wrong = trainer(naive, tmp_path, kind=Naive, collated=collated, **settings)
    wrong.regularizer = ewc
    wrong.train()
    trainer(model, tmp_path, [as_trainer_callback(ewc)], **settings).train()
    steps = chunks(collated.batches, accumulation)[:6]
    plain(once, steps, sgd(once), ewc=ewc)
    plain(often, steps, sgd(often), ewc=ewc, times=accumulation)
    assert apart(model, once) < 1e-5
    assert apart(naive, often) < 1e-5
    assert accumulation == 1 or apart(naive, model) > 1e-3


def test_proximal_steps_come_after_each_step(tmp_path):
    model, collated = gpt(), Collated()
    plainly, ewc = copy.deepcopy(model), held(model)
    trainer(model, tmp_path, [as_trainer_callback(ewc, mode="proximal")], collated=collated, max_steps=5,
            gradient_accumulation_steps=4).train()
    optimizer, factor = sgd(plainly), 0.02 * ewc.strength / (1 - 0.9)
    importance, anchor = ewc.consolidated.curvature.diagonal(), ewc.consolidated.anchor
    for batches in chunks(collated.batches, 4)[:5]:
        plain(plainly, [batches], optimizer)
        with torch.no_grad():
            for name, weight in plainly.named_parameters():
                weight.copy_(anchor[name] + (weight - anchor[name]) / (1 + factor * importance[name]))
    assert apart(model, plainly) < 1e-5


@pytest.mark.parametrize("make", [lambda: LwF(20.0), lambda: FeatureL2(5.0, modules="transformer.h.0")],
                         ids=["lwf", "feature-l2"])
def test_methods_that_look_at_inputs_and_outputs_come_through_the_loss(make, tmp_path):
    model, collated, known = gpt(), Collated(), make()
    known.consolidate(model)
    plainly, freely, alone = copy.deepcopy(model), copy.deepcopy(model), copy.deepcopy(known)
    trainer(model, tmp_path, [as_trainer_callback(known, mode="loss")], kind=Held, collated=collated, max_steps=10,
            gradient_accumulation_steps=4).train()
    steps = chunks(collated.batches, 4)[:10]
    plain(plainly, steps, sgd(plainly),
          extra=lambda model, batch, outputs: alone.penalty(model, {"input_ids": batch["input_ids"]}, outputs))
    plain(freely, steps, sgd(freely))
    assert apart(model, plainly) < 1e-5
    assert apart(model, freely) > 1e-3


@pytest.mark.parametrize(("mode", "kind"), [("gradient", transformers.Trainer), ("loss", Held)])
def test_a_path_method_hears_the_task_alone(mode, kind, tmp_path):
    """SI with an anchor and a path: its importances are those of −g·Δθ with the task's own gradients."""
    model, collated = gpt(), Collated()
    si = SI(0.3, damping=0.1)
    si.consolidate(model, curvature=held(model).consolidated.curvature)
    before, plainly = si.consolidated, copy.deepcopy(model)
    trainer(model, tmp_path, [as_trainer_callback(si, mode=mode)], kind=kind, collated=collated, max_steps=10,
            gradient_accumulation_steps=2).train()
    si.consolidate(model)
    start = {name: weight.detach().clone() for name, weight in plainly.named_parameters()}
    omega, optimizer = {name: torch.zeros_like(weight) for name, weight in start.items()}, sgd(plainly)
    for batches in chunks(collated.batches, 2)[:10]:
        here = {name: weight.detach().clone() for name, weight in plainly.named_parameters()}
        optimizer.zero_grad()
        plain(plainly, [batches], torch.optim.SGD(plainly.parameters(), lr=0.0))
        slopes = {name: weight.grad.clone() for name, weight in plainly.named_parameters()}
        for name, weight in plainly.named_parameters():
            weight.grad += 0.3 * before.curvature[name] * (weight.detach() - before.anchor[name])
        optimizer.step()
        for name, weight in plainly.named_parameters():
            omega[name] += slopes[name] * (here[name] - weight.detach())
    for name, weight in plainly.named_parameters():
        path = omega[name].clamp(min=0) / ((weight.detach() - start[name]).square() + 0.1)
        assert torch.allclose(si.consolidated.curvature[name], before.curvature[name] + path, atol=1e-5), name
    assert max(float(value.max()) for value in omega.values()) > 1e-3


class Killed(Exception):
    pass


class Killer(transformers.TrainerCallback):
    """Ends a run in the middle of a step."""

    def __init__(self, step):
        self.step = step

    def on_pre_optimizer_step(self, args, state, control, **others):
        if state.global_step == self.step:
            raise Killed


@pytest.mark.parametrize("method", [EWC, SI])
def test_a_run_that_was_killed_ends_with_the_same_weights_and_the_same_knowledge(method, tmp_path):
    settings = {"max_steps": 20, "save_strategy": "steps", "save_steps": 8, "gradient_accumulation_steps": 2,
                "examples": sequences(24), "optimizer": adamw, "max_grad_norm": 1.0}

    def known(model):
        found = method(2.0)
        found.consolidate(model, curvature=held(model).consolidated.curvature)
        return found

    whole, broken, resumed = gpt(dropout=0.1), gpt(dropout=0.1), gpt(seed=9, dropout=0.1)
    through = known(whole)
    trainer(whole, tmp_path / "whole", [as_trainer_callback(through)], **settings).train()
    with pytest.raises(Killed), as_trainer_callback(known(broken)) as callback:
        trainer(broken, tmp_path / "cut", [callback, Killer(11)], **settings).train()
    anew = method(2.0)
    trainer(resumed, tmp_path / "cut", [as_trainer_callback(anew)], **settings).train(resume_from_checkpoint=True)
    assert apart(whole, resumed) == 0
    assert apart(whole, broken) > 1e-3
    if method is SI:
        through.consolidate(whole)
        anew.consolidate(resumed)
    for name, value in through.consolidated.curvature.items():
        assert torch.equal(value, anew.consolidated.curvature[name]), name
