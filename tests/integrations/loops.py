"""A tiny language model, its sequences, and the slow obvious loop that trainers are compared with."""

from __future__ import annotations

import torch
from torch.nn import functional

from forgetting import EWC
from forgetting.curvature import Anchored, Diagonal
from forgetting.parameters import named, snapshot

WORDS, LENGTH = 13, 6
STRENGTH = 2.0


def gpt(seed=0, dropout=0.0):
    """One block of 16, with a tied head, from its configuration."""
    from transformers import GPT2Config, GPT2LMHeadModel

    settings = GPT2Config(vocab_size=WORDS, n_positions=LENGTH, n_embd=16, n_layer=1, n_head=2, resid_pdrop=dropout,
                          embd_pdrop=dropout, attn_pdrop=dropout, initializer_range=0.3, bos_token_id=0, eos_token_id=0)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = GPT2LMHeadModel(settings)
    model.loss_type = "ForCausalLM"  # as its class's name does not say: Trainer would count first labels, too
    return model


def sequences(count, seed=0):
    """Token sequences; each counts another number of labels, as answers of several lengths do."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(count):
        tokens = torch.randint(WORDS, (LENGTH,), generator=generator)
        labels = tokens.clone()
        labels[: int(torch.randint(LENGTH - 1, (), generator=generator))] = -100
        found.append({"input_ids": tokens, "labels": labels})
    return found


class Collated:
    """Makes batches of examples, and remembers them in order."""

    def __init__(self):
        self.batches = []

    def __call__(self, examples):
        batch = {key: torch.stack([example[key] for example in examples]) for key in examples[0]}
        self.batches.append({key: value.clone() for key, value in batch.items()})
        return batch


def held(model, strength=STRENGTH, seed=3, moved=0.1):
    """EWC with an importance and an anchor that are drawn: it pulls from the first step on."""
    generator = torch.Generator().manual_seed(seed)
    live = named(model, trainable=False)
    importance = {name: torch.rand(weight.shape, generator=generator) for name, weight in live.items()}
    anchor = {name: weight + moved * torch.randn(weight.shape, generator=generator)
              for name, weight in snapshot(live).items()}
    ewc = EWC(strength)
    ewc.consolidate(model, curvature=Anchored(Diagonal(importance), anchor))
    return ewc


def task_losses(model, batches, *, by_items):
    """The micro-batches' losses of one step; by items, each is a sum over the number of labels of the whole step."""
    items = sum(int((batch["labels"][:, 1:] != -100).sum()) for batch in batches)
    for batch in batches:
        outputs = model(input_ids=batch["input_ids"])
        logits, labels = outputs.logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten()
        if by_items:
            yield functional.cross_entropy(logits, labels, reduction="sum") / items, batch, outputs
        else:
            yield functional.cross_entropy(logits, labels) / len(batches), batch, outputs


def plain(model, steps, optimizer, *, clip=0.0, ewc=None, inside=False, times=1.0, by_items=True, extra=None):
    """Train: the task's gradients, clipped, and the pull of EWC by hand, times a factor, outside or inside the clip.

    ``extra(model, batch, outputs)`` is a term of each micro-batch, divided by their number.
    """
    model.train()
    for batches in steps:
        optimizer.zero_grad()
        for loss, batch, outputs in task_losses(model, batches, by_items=by_items):
            if extra is not None:
                loss = loss + extra(model, batch, outputs) / len(batches)
            loss.backward()
        if ewc is not None and inside:
            _pull(model, ewc, times)
        if clip:
            torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
        if ewc is not None and not inside:
            _pull(model, ewc, times)
        optimizer.step()
    return model


def _pull(model, ewc, times):
    """λF(θ−θ*) onto the gradients."""
    importance, anchor = ewc.consolidated.curvature.diagonal(), ewc.consolidated.anchor
    for name, weight in model.named_parameters():
        with torch.no_grad():
            weight.grad += times * ewc.strength * importance[name] * (weight - anchor[name])


def chunks(batches, accumulation, epoch=None):
    """Batches in the order of training, as the micro-batches of each step; an epoch's last step may have fewer."""
    epoch = epoch or len(batches)
    return [batches[first + start: first + min(start + accumulation, epoch)]
            for first in range(0, len(batches), epoch) for start in range(0, epoch, accumulation)]


def apart(one, other, *, key_bias=True):
    """The largest difference of two models' weights; perhaps without the biases of keys, whose true gradient is 0."""
    theirs = dict(other.named_parameters())
    found = []
    for name, weight in one.named_parameters():
        difference = (weight - theirs[name]).detach().abs()
        if not key_bias and name.endswith("c_attn.bias"):
            difference[len(difference) // 3: 2 * len(difference) // 3] = 0
        found.append(float(difference.max()))
    return max(found)
