"""A small language model that knows prose, and Python code for it to learn: both come with Python itself.

What stands here is what the reader of docs/tutorials/trainer.md has already: a model, two data sets, a Trainer script.
"""

import argparse
import inspect
from pydoc_data.topics import topics

import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

LENGTH = 48  # characters; one is one token


def cut(text: str, count: int) -> list[dict[str, torch.Tensor]]:
    """That many pieces from all over a text."""
    characters = torch.tensor([ord(character) for character in text if ord(character) < 128])
    starts = torch.linspace(0, len(characters) - LENGTH, count).long()
    pieces = [characters[start:start + LENGTH] for start in starts]
    return [{"input_ids": piece, "labels": piece} for piece in pieces]


def parts(pieces: list, held: int) -> dict[str, list]:
    """Pieces to train on, 100 to choose on, and those that are held back to report on: the text's end."""
    return {"train": pieces[:-held - 100], "validation": pieces[-held - 100:-held], "test": pieces[-held:]}


prose = parts(cut(" ".join(topics[name] for name in sorted(topics)), 3600), 600)
code = parts(cut(inspect.getsource(argparse), 1500), 200)


def train(model: GPT2LMHeadModel, data: list, steps: int, watched: dict, callbacks: list) -> Trainer:
    """The script: a Trainer that looks at both texts now and then."""
    settings = TrainingArguments(
        "out", max_steps=steps, per_device_train_batch_size=16, per_device_eval_batch_size=100, learning_rate=3e-3,
        eval_strategy="steps" if watched else "no", eval_steps=20, logging_steps=20, save_strategy="no",
        report_to="none", use_cpu=True, disable_tqdm=True, seed=0)
    trainer = Trainer(model, settings, train_dataset=data, eval_dataset=watched or None, callbacks=callbacks)
    trainer.train()
    return trainer


def pretrained() -> GPT2LMHeadModel:
    """A decoder of 110 000 weights that has read prose for 300 steps."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = GPT2LMHeadModel(GPT2Config(
            vocab_size=128, n_positions=LENGTH, n_embd=64, n_layer=2, n_head=4, resid_pdrop=0.0, embd_pdrop=0.0,
            attn_pdrop=0.0, bos_token_id=0, eos_token_id=0))
    train(model, prose["train"], 300, {}, [])
    return model
