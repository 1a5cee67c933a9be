"""Sequences that begin with what a pretrained network knows: the options that say which network, and what it knows."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from forgetting import tasks
from forgetting.tasks import Classifier, Clip, DataSplit, Decoder
from forgetting.tasks.clip import CIFAR10, CLIP
from forgetting.tasks.given import GIVEN, NEEDS, SIZES, kind_of
from forgetting.tasks.labelled import class_columns, class_folders, labelled, spoken
from forgetting.tasks.packaged import packaged
from forgetting.tasks.pretrained import HUB
from forgetting.tasks.texts import encoder
from forgetting.tasks.unknown import nearest

WINDOW = 32  # tokens that a language model reads
PIXELS = 224  # where neither the option nor the network says how many
_ALL = {"epochs": 2, "batch": 32, "pretraining_epochs": 0, "every": 10**6}
RECIPES: dict[str, dict[str, Any]] = {"images": {**_ALL, "momentum": 0.9, "rate": 0.001},
                                      "texts": {**_ALL, "optimizer": "adamw", "rate": 3e-5},
                                      "language": {**_ALL, "optimizer": "adamw", "rate": 3e-5}}


@dataclass(frozen=True)
class Options:
    """Which network, and what it knows; None where nothing was said."""

    network: str | None = None
    weights: str | None = None
    pixels: int | None = None
    source: Path | None = None
    classes: Path | None = None
    train: int | None = None

    def said(self) -> list[str]:
        """The options that were given."""
        return [f"--{item.name}" for item in dataclasses.fields(self) if getattr(self, item.name) is not None]


def options(command: Callable[..., None]) -> Callable[..., None]:
    """The options of :class:`Options`."""
    for option in reversed((
        click.option("--network", help="a pretrained one, for sequences that begin with what it knows: timm's name, "
                                       "torchvision:NAME or clip:NAME for images, a sentence encoder's for texts, a "
                                       "language model's (or its GGUF file) for language"),
        click.option("--weights", help="of --network: a file, hub or none  [default: an installed package's, or hub]"),
        click.option("--pixels", type=click.IntRange(min=8),
                     help="height and width that --network is shown  [default: 224, CLIP's own]"),
        click.option("--source", type=click.Path(path_type=Path),
                     help="what --network knows: labelled images, DIR/CLASS/*  [default: its own answers]"),
        click.option("--classes", type=click.Path(path_type=Path),
                     help="JSON: which class of --network each folder of --source is"),
        click.option("--train", type=click.IntRange(min=1), help="examples a task, with --network  [default: 500]"),
    )):
        command = option(command)
    return command


def check(name: str) -> None:
    """Refuse a name that is neither a standard sequence's nor one for a network of the user's."""
    everything = (*tasks.names(), *GIVEN)
    if name not in everything:
        raise ValueError(nearest("sequence", name, everything))


def fields(name: str, given: Options) -> dict[str, Any]:
    """Sequence, network and the rest of a recipe; of a standard sequence its name alone."""
    check(name)
    if name not in GIVEN:
        if given.said():
            raise click.BadParameter(f"{', '.join(given.said())}: for the sequences {', '.join(GIVEN)}; the network of "
                                     f"{name} is set by --set recipe.network=…")
        return {"sequence": name}
    kind = kind_of(name)
    if given.network is None:
        raise click.BadParameter(f"{name} begins with what {NEEDS[kind]} knows: say which with --network, for example "
                                 f"--network {GIVEN[name].network}")
    network, source = {"images": _of_images, "texts": _of_texts, "language": _of_language}[kind](name, given)
    train = given.train or SIZES[kind].train
    found = tasks.sequence_for(name, network, train=train, source=source)
    return {"sequence": found, "network": network, **RECIPES[kind]}


def _of_images(_: str, given: Options) -> tuple[Classifier | Clip, DataSplit | None]:
    """The classifier, and the user's images."""
    assert given.network is not None
    if given.classes is not None and given.source is None:
        raise click.BadParameter("--classes names the folders of --source: give both")
    if given.network.startswith(CLIP):
        return _of_clip(given.network.removeprefix(CLIP), given)
    if given.source is not None:
        class_folders(given.source)  # refused before weights are fetched
    network = Classifier(given.network, given.weights or str(packaged(given.network) or HUB), given.pixels or PIXELS)
    if given.source is None:
        return network, None
    known = None if given.classes is None else class_columns(given.classes)
    return network, labelled(given.source, network.pixels, classes=known, columns=network.classes(), most=_most(given))


def _of_clip(name: str, given: Options) -> tuple[Clip, DataSplit | None]:
    """A CLIP, whose classes are the folders' names."""
    _refuse(given, "a CLIP", "weights", "pixels", "classes")
    if given.source is None:
        return Clip(name, CIFAR10), None
    folders = [path.name for path in class_folders(given.source)]
    network = Clip(name, tuple(map(spoken, folders)))
    columns = {folder: number for number, folder in enumerate(folders)}
    return network, labelled(given.source, network.pixels, classes=columns, most=_most(given))


def _of_texts(name: str, given: Options) -> tuple[Any, None]:
    """The encoder."""
    assert given.network is not None
    _refuse(given, name, "weights", "pixels", "source", "classes")
    file = packaged(given.network)
    return encoder(str(file.parent) if file else given.network), None


def _of_language(name: str, given: Options) -> tuple[Decoder, None]:
    """The language model."""
    assert given.network is not None
    _refuse(given, name, "weights", "pixels", "source", "classes")
    return Decoder(str(packaged(given.network) or given.network), WINDOW), None


def _refuse(given: Options, what: str, *names: str) -> None:
    said = [option for option in given.said() if option.removeprefix("--") in names]
    if said:
        raise click.BadParameter(f"{', '.join(said)}: has no meaning for {what}; leave it away")


def _most(given: Options) -> tuple[int, int, int]:
    sizes = SIZES["images"]
    return dataclasses.replace(sizes, train=given.train or sizes.train).of_source()
