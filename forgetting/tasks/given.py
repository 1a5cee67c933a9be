"""Sequences that begin with what a given pretrained network knows, by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from forgetting.tasks.clip import Clip
from forgetting.tasks.decoders import Decoder
from forgetting.tasks.images import image_sequence
from forgetting.tasks.language import language_sequence
from forgetting.tasks.packaged import MINILM, SMOLLM2
from forgetting.tasks.pretrained import Classifier
from forgetting.tasks.registry import Description
from forgetting.tasks.sentences import Encoder
from forgetting.tasks.sizes import Sizes
from forgetting.tasks.task import DataSplit, TaskSequence
from forgetting.tasks.texts import text_sequence
from forgetting.tasks.unknown import nearest

SIZES = {"images": Sizes(), "texts": Sizes(validation=200, test=400),
         "language": Sizes(validation=100, source_test=400)}
NEEDS = {"images": "an image classifier", "texts": "a sentence encoder", "language": "a causal language model"}
_NETWORKS: dict[str, tuple[type, ...]] = {"images": (Classifier, Clip), "texts": (Encoder,), "language": (Decoder,)}
_MAKE: dict[str, Callable[..., TaskSequence]] = {"images": image_sequence, "texts": text_sequence,
                                                 "language": language_sequence}
_USUAL = {"images": "tf_efficientnet_lite0", "texts": MINILM, "language": SMOLLM2}
_LINES = {
    "images-targets": ("what an image classifier knows, then CIFAR-10, Fashion-MNIST and MNIST", "task"),
    "images-rotation": ("what an image classifier knows, then the same images turned by 90°", "domain"),
    "images-corruption": ("what an image classifier knows, then the same images noisy, blurred, pale and coarse",
                          "domain"),
    "texts-targets": ("what a sentence encoder knows, then AG News in two pairs of classes", "task"),
    "texts-words": ("what a sentence encoder knows, then AG News, then AG News without some of its words", "task"),
    "language-targets": ("what a causal language model knows of WikiText-2, then Shakespeare and AG News", "domain"),
}
GIVEN = {name: Description(name, text, scenario, (scenario,), True, _USUAL[name.partition("-")[0]], ())
         for name, (text, scenario) in _LINES.items()}


def kind_of(name: str) -> str:
    """``"images"``, ``"texts"`` or ``"language"``; raises for a name that is not one of these sequences'."""
    if name not in GIVEN:
        raise ValueError(nearest("sequence for a network of yours", name, GIVEN))
    return name.partition("-")[0]


def sequence_for(name: str, network: Any, *, train: int = 500, source: DataSplit | None = None) -> TaskSequence:
    """A sequence whose first task is what a pretrained network knows, with columns of its own for what comes after.

    =====================  ============================================================================================
    name                   what comes after the source
    =====================  ============================================================================================
    ``images-targets``     CIFAR-10, Fashion-MNIST, MNIST, ten columns each; task-incremental
    ``images-rotation``    the source's own images turned by 90°; domain-incremental
    ``images-corruption``  the source's own images under noise, blur, little contrast, coarse pixels, a task each, at
                           severity 3; domain-incremental
    ``texts-targets``      AG News: World and Sports, then Business and Sci/Tech; task-incremental
    ``texts-words``        AG News, then again in small letters, without punctuation and three tenths of the words;
                           task-incremental
    ``language-targets``   the next token of Shakespeare, then of AG News, all tokens being columns; domain-incremental
    =====================  ============================================================================================

    Args:
        name: of the table.
        network: a :class:`Classifier` or a :class:`Clip` for images, an :class:`Encoder` for texts, a :class:`Decoder`
            for language: what the recipe will have as ``network``.
        train: examples to learn from, a task.
        source: images with their columns among the network's; None takes what the network itself answers on CIFAR-10
            images (texts: on WikiText-2 sentences), so that accuracy is agreement with the network as it was;
            for language it is always WikiText-2's own next tokens.

    Raises:
        ValueError: an unknown name, with the nearest; fewer examples than are asked for; a source for
            texts or language.
        TypeError: a network of another kind.
        ImportError, FileNotFoundError: where packages or data are missing.

    **Cost**: reading the data and the network, and its answers on the source's examples.

    Example:
        >>> sequence_for("images-targets", Classifier("resnet18", pixels=64))       # doctest: +SKIP
        TaskSequence('resnet18-targets', 4 tasks)
    """
    kind = kind_of(name)
    if not isinstance(network, _NETWORKS[kind]):
        expected = " or ".join(known.__name__ for known in _NETWORKS[kind])
        raise TypeError(f"{name} needs {NEEDS[kind]} (tasks.{expected}), not a {type(network).__name__}")
    make = partial(_MAKE[kind], network, replace(SIZES[kind], train=train), shift=name.partition("-")[2])
    if source is None:
        return make()
    if kind != "images":
        raise ValueError(f"{name} takes no source=: that is for images")
    return make(source=source)
