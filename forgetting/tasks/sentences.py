"""Sentence encoders by name: what they know is which of a few fixed sentences is nearest, beside it logits to learn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from forgetting.tasks.hub import transformers
from forgetting.tasks.task import TaskSequence


class Nearest(nn.Module):
    r"""Cosines to fixed sentences as logits, then those of new tasks: :math:`[A\hat e / \tau,\; W e + b]`.

    The embedding :math:`e` is the mean of the encoder's last states over the tokens that are not padding,
    :math:`\hat e = e/\lVert e\rVert`, the rows of :math:`A` are such embeddings of the fixed sentences, made once.

    Args:
        encoder: a transformers encoder without a head.
        padding: the token that counts nowhere.
        temperature: :math:`\tau`, above 0.

    **Cost**: that of the encoder.
    """

    anchors: Tensor

    def __init__(self, encoder: nn.Module, padding: int, temperature: float) -> None:
        super().__init__()
        if not temperature > 0:
            raise ValueError(f"temperature={temperature}: cosines are divided by it, so it is above 0")
        self.encoder, self.padding, self.temperature = encoder, padding, temperature
        self.register_buffer("anchors", torch.empty(0))
        self.targets: nn.Linear | None = None

    def embedded(self, tokens: Tensor) -> Tensor:
        """The embeddings of token ids, int64 [n, length]."""
        mask = (tokens != self.padding).long()
        states = self.encoder(input_ids=tokens, attention_mask=mask).last_hidden_state
        counted = mask.unsqueeze(-1).to(states.dtype)
        return (states * counted).sum(dim=1) / counted.sum(dim=1).clamp(min=1)

    def forward(self, tokens: Tensor) -> Tensor:
        """All logits of token ids, int64 [n, length]."""
        found = self.embedded(tokens)
        known = functional.normalize(found, dim=-1) @ self.anchors.T / self.temperature
        return known if self.targets is None else torch.cat([known, self.targets(found)], dim=-1)


@dataclass(frozen=True)
class Encoder:
    """A pretrained sentence encoder as a recipe's ``network=``: nearness to fixed sentences, then logits to learn.

    Args:
        name: a model's name on the hub, or its folder.
        sentences: the fixed ones, at least two; logit k says how near the k-th is.
        length: tokens an input has; longer texts are cut, shorter ones padded.
        temperature: by which cosines are divided.

    Raises:
        ValueError: for fewer sentences; from a call, for a sequence with fewer columns than sentences.
        ImportError: where transformers is missing.

    **Cost**: that of reading the weights and embedding the sentences, at every call.

    Example:
        >>> Encoder("sentence-transformers/all-MiniLM-L6-v2", ("A cat.", "A dog.")).__qualname__
        'all-MiniLM-L6-v2'
    """

    name: str
    sentences: tuple[str, ...]
    length: int = 32
    temperature: float = 0.05

    def __post_init__(self) -> None:
        if len(self.sentences) < 2:
            raise ValueError(f"{len(self.sentences)} sentences to be near to; at least 2 are needed")
        object.__setattr__(self, "__qualname__", self.name.rpartition("/")[2])  # what a recipe calls it

    def tokens(self, texts: Sequence[str]) -> Tensor:
        """Token ids of texts, int64 [n, length]."""
        cut = self._tokenizer()(list(texts), padding="max_length", truncation=True, max_length=self.length,
                                return_tensors="pt")
        return cut["input_ids"]

    def original(self) -> Nearest:
        """The encoder as it was pretrained, in eval mode, with the fixed sentences' logits alone."""
        encoder = transformers("sentence encoders").AutoModel.from_pretrained(self.name)
        if getattr(encoder, "pooler", None) is not None:
            encoder.pooler = None  # its output is not read
        model = Nearest(encoder, self._tokenizer().pad_token_id, self.temperature).eval()
        with torch.no_grad():
            model.anchors = functional.normalize(model.embedded(self.tokens(self.sentences)), dim=-1)
        return model

    def __call__(self, sequence: TaskSequence) -> nn.Module:
        """The encoder with as many logits as the sequence has columns; the new ones' weights are drawn."""
        more = sequence.classes - len(self.sentences)
        if more < 0:
            raise ValueError(f"{sequence.name!r} has {sequence.classes} columns, fewer than the {len(self.sentences)} "
                             "fixed sentences: make the sequence for this encoder")
        model = self.original()
        if more:
            model.targets = nn.Linear(model.anchors.shape[1], more)
        return model

    def _tokenizer(self) -> Any:
        return transformers("sentence encoders").AutoTokenizer.from_pretrained(self.name)
