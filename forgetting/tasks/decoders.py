"""Causal language models by name: what they know is which token comes next."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from forgetting.tasks.examples import Examples
from forgetting.tasks.hub import transformers
from forgetting.tasks.task import TaskSequence


class NextToken(nn.Module):
    r"""The logits of the token that follows a window: :math:`z(x_1, \dots, x_T)`, [n, vocabulary].

    Args:
        decoder: transformers' causal language model; its parameters and tied head stay what they are.

    **Cost**: that of the decoder, the head on the last position alone where the model has ``logits_to_keep``.
    """

    def __init__(self, decoder: nn.Module) -> None:
        super().__init__()
        self.decoder = decoder
        takes = inspect.signature(decoder.forward).parameters
        self._asked = {"use_cache": False, **({"logits_to_keep": 1} if "logits_to_keep" in takes else {})}

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of token ids, int64 [n, length]."""
        return self.decoder(input_ids=tokens, **self._asked).logits[:, -1]


@dataclass(frozen=True)
class Decoder:
    """A pretrained causal language model as a recipe's ``network=``: a window of tokens in, logits of the next one out.

    Args:
        name: a model's name on the hub, its folder, or a GGUF file.
        length: tokens a window has, at least 1.

    Raises:
        ValueError: for a length below 1; from a call, for a sequence with other columns than the vocabulary's.
        ImportError: where transformers (for a GGUF file: gguf, too) is missing.

    **Cost**: that of reading the weights, in float32, at every call.

    Example:
        >>> Decoder("HuggingFaceTB/SmolLM2-135M-Instruct", 64).__qualname__
        'SmolLM2-135M-Instruct'
    """

    name: str
    length: int

    def __post_init__(self) -> None:
        if self.length < 1:
            raise ValueError(f"length={self.length}: a window has at least one token")
        object.__setattr__(self, "__qualname__", self.name.rpartition("/")[2])  # what a recipe calls it

    def vocabulary(self) -> int:
        """How many logits it has."""
        return int(transformers("language models").AutoConfig.from_pretrained(**place(self.name)).vocab_size)

    def windows(self, text: str, count: int) -> Examples:
        """The first so many windows of a text, one after the other, and the token that follows each.

        Raises:
            ValueError: where the text has fewer.
        """
        cut = windows(tokenizer(self.name), text, self.length + 1, count * (self.length + 1))
        if len(cut) < count:
            raise ValueError(f"{count} windows of {self.length + 1} tokens were asked for, and the text has {len(cut)}")
        return Examples(cut[:, :-1].contiguous(), cut[:, -1].contiguous())

    def __call__(self, sequence: TaskSequence) -> nn.Module:
        """The model as it was pretrained."""
        if sequence.classes != self.vocabulary():
            raise ValueError(f"{sequence.name!r} has {sequence.classes} columns, {self.name} a vocabulary of "
                             f"{self.vocabulary()}: make the sequence for this model")
        return NextToken(causal(self.name))


def windows(tokenizer: Any, text: str, length: int, tokens: int) -> Tensor:
    """The first so many tokens of a text, int64 [windows, length]; what is left over is dropped.

    Raises:
        ValueError: where there is not one window.
    """
    found = torch.tensor(tokenizer(text[: 12 * tokens])["input_ids"][:tokens])
    if len(found) < length:
        raise ValueError(f"the text has {len(found)} tokens, fewer than one window of {length}")
    return found[: len(found) // length * length].view(-1, length)


def causal(name: str) -> nn.Module:
    """A causal language model in float32 and eval mode: a GGUF file, a folder or a hub name."""
    loader = transformers("language models").AutoModelForCausalLM
    return loader.from_pretrained(**place(name), dtype=torch.float32).eval()


def tokenizer(name: str) -> Any:
    """Its tokenizer."""
    return transformers("language models").AutoTokenizer.from_pretrained(**place(name))


def place(name: str) -> dict[str, str]:
    """What transformers' ``from_pretrained`` is told."""
    file = Path(name)
    if file.suffix == ".gguf":
        return {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    return {"pretrained_model_name_or_path": name}
