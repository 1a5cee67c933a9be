"""Sequences for pretrained sentence encoders: what is near to what, then AG News in pairs of classes, or shifted."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from typing import Any

import torch

from forgetting.tasks.agreement import agreement
from forgetting.tasks.examples import Examples
from forgetting.tasks.folders import data_root
from forgetting.tasks.sentences import Encoder
from forgetting.tasks.sequences import keyed
from forgetting.tasks.sizes import Sizes
from forgetting.tasks.task import DataSplit, Task, TaskSequence

CLASSES = ("World", "Sports", "Business", "Sci/Tech")
SHIFTS = ("targets", "words")
DROPPED = 0.3  # of the words, where the text is shifted
SENTENCES = 100  # fixed ones, to be near to
_WORDS = (8, 40)  # of a sentence that is taken


def read(name: str) -> str:
    """A text of the data folder."""
    path = data_root() / "text" / name
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise FileNotFoundError(f"{path} cannot be read ({error}): set the environment variable FORGETTING_DATA to a "
                                "folder that holds it") from error


def wikipedia(part: str) -> list[str]:
    """WikiText-2's sentences of 8 to 40 words in its part ``"valid"`` or ``"test"``, each once, in a drawn order."""
    text = re.sub(r" @(.)@ ", r"\1", read(f"wikitext2/{part}.txt"))
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.strip().startswith("=")]
    found = dict.fromkeys(sentence.strip(" .") + "." for line in lines for sentence in line.split(" . ")
                          if _WORDS[0] <= len(sentence.split()) <= _WORDS[1] and "<unk>" not in sentence)
    return _mixed(list(found), f"wikitext {part}")


def news() -> dict[int, list[str]]:
    """AG News: class from 0 -> its texts, title and description, in a drawn order."""
    found: dict[int, list[str]] = {number: [] for number in range(len(CLASSES))}
    for label, title, description in csv.reader(read("ag_news/test.csv").splitlines()):
        found[int(label) - 1].append(f"{title}. {description}".replace("\\", " "))
    return {number: _mixed(texts, f"ag news {number}") for number, texts in found.items()}


def shifted(text: str, number: int) -> str:
    """A text in small letters, without punctuation, and without a share of its words; ``number`` draws which."""
    words = re.sub(r"[^\w\s]", " ", text.lower()).split()
    kept = keyed(number, "words that are dropped").random_sample(len(words)) >= DROPPED
    return " ".join(word for word, stays in zip(words, kept, strict=True) if stays) or text.lower()


def encoder(name: str, **settings: Any) -> Encoder:
    """A sentence encoder beside which WikiText sentences stand."""
    return Encoder(name, tuple(wikipedia("valid")[:SENTENCES]), **settings)


def text_sequence(network: Encoder, sizes: Sizes, *, shift: str = "targets") -> TaskSequence:
    """What an encoder knows, then what it adapts to, task-incremental.

    Args:
        network: the encoder; which of its fixed sentences it holds nearest to others is what it knows.
        sizes: how many texts a task.
        shift: ``"targets"``: {World, Sports}, then {Business, Sci/Tech}; ``"words"``: the four classes, then the same
            classes on shifted texts (:func:`shifted`), with a head of their own.
    """
    known = len(network.sentences)
    learned, held = sizes.train, sizes.validation
    pool = wikipedia("valid")[SENTENCES:]
    _enough("WikiText sentences", pool, learned + held)
    cut = (pool[:learned], pool[learned : learned + held], wikipedia("test")[: sizes.source_test])
    model = network.original()
    source = DataSplit(*(agreement(model, _examples(network, part, [0] * len(part))) for part in cut))
    tasks = [Task.of("source (agreement)", source, range(known))]
    groups = ((0, 1), (2, 3)) if shift == "targets" else (range(4), range(4))
    for place, group in enumerate(groups):
        first = known + place * len(group)
        moved = shift == "words" and place == 1
        parts = _news(network, sizes, group, first, moved)
        name = " and ".join(CLASSES[number] for number in group) if shift == "targets" else "AG News"
        tasks.append(Task.of(f"{name}, shifted" if moved else name, parts, range(first, first + len(group))))
    total = known + sum(map(len, groups))
    return TaskSequence(f"{network.name.rpartition('/')[2]}-{shift}", tuple(tasks), "task", total, pretrained=True)


def _news(network: Encoder, sizes: Sizes, group: Sequence[int], first: int, moved: bool) -> DataSplit:
    """AG News texts of these classes, equally many of each, in the columns from ``first`` on."""
    texts = news()
    parts = []
    begin = dict.fromkeys(group, 0)
    for count in (sizes.train, sizes.validation, sizes.test):
        chosen, targets = [], []
        for place, number in enumerate(group):
            each = count // len(group)
            some = texts[number][begin[number] : begin[number] + each]
            _enough(f"AG News texts of {CLASSES[number]}", some, each)
            begin[number] += each
            chosen += [shifted(text, row) for row, text in enumerate(some)] if moved else some
            targets += [first + place] * each
        parts.append(_examples(network, chosen, targets))
    return DataSplit(*parts)


def _examples(network: Encoder, texts: Sequence[str], targets: Sequence[int]) -> Examples:
    return Examples(network.tokens(texts), torch.tensor(targets, dtype=torch.int64))


def _mixed(texts: list[str], purpose: str) -> list[str]:
    """The same texts in an order that is the same in every run."""
    return [texts[place] for place in keyed(0, f"retention {purpose}").permutation(len(texts))]


def _enough(what: str, found: Sequence[str], count: int) -> None:
    if len(found) < count:
        raise ValueError(f"{count} {what} were asked for, and there are {len(found)}")
