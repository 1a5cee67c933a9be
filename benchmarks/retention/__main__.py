"""What fine-tuning costs a pretrained model, and what each method keeps: ``python -m benchmarks.retention vision``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from benchmarks.retention import study
from forgetting import methods
from forgetting.cli import given
from forgetting.cli.console import Errors
from forgetting.protocol import Recipe
from forgetting.tasks.images import SHIFTS as IMAGES
from forgetting.tasks.packaged import MINILM, packaged
from forgetting.tasks.texts import SHIFTS as TEXTS
from forgetting.tasks.unknown import nearest

__all__ = ["main", "packaged"]


@click.group(cls=Errors, context_settings={"show_default": True})
def main() -> None:
    """Fine-tune a pretrained model on tasks in sequence; measure what it kept, before, after each task, at the end."""


@main.command("vision")
@click.option("--network", default="tf_efficientnet_lite0", help="timm's, torchvision:NAME or clip:NAME")
@click.option("--weights", help="a file, hub or none  [default: an installed package's file, or hub]")
@click.option("--pixels", type=click.IntRange(min=8),
              help="height and width that the network is shown  [default: 64, CLIP's own]")
@click.option("--shift", type=click.Choice(IMAGES), default="targets", help="what comes after the source")
@click.option("--source", type=click.Path(path_type=Path), help="labelled images, DIR/CLASS/*; default: agreement")
@click.option("--classes", type=click.Path(path_type=Path), help="JSON: which class of the network each folder is")
@study.shared_options
def vision_(network: str, weights: str | None, pixels: int | None, shift: str, source: Path | None,
            classes: Path | None, train: int, **shared: Any) -> None:
    """An image classifier: CIFAR-10, Fashion-MNIST and MNIST in sequence, or its own source turned or made worse."""
    if pixels is None and not network.startswith(given.CLIP):
        pixels = 64
    _study("vision", f"images-{shift}", given.Options(network, weights, pixels, source, classes, train), **shared)


@main.command("text")
@click.option("--network", default=MINILM, help="a sentence encoder's name on the hub, or its folder")
@click.option("--shift", type=click.Choice(TEXTS), default="targets", help="pairs of classes, or dropped words")
@study.shared_options
def text_(network: str, shift: str, train: int, **shared: Any) -> None:
    """A sentence encoder: AG News in two pairs of classes, or all four and then the same on shifted texts."""
    _study("text", f"texts-{shift}", given.Options(network, train=train), **shared)


def _study(kind: str, name: str, known: given.Options, *, listed: str, seeds: int, out: Path, epochs: int, batch: int,
           device: str, workers: int, ray: str | None, dry_run: bool) -> None:
    """What both commands do once they know their sequence and their network."""
    names = list(dict.fromkeys(name.strip() for name in listed.split(",") if name.strip()))
    for method in names:
        if method not in methods.names():
            raise click.BadParameter(nearest("method", method, methods.names()))
    where = study.executor(workers, ray, device)
    fields = {**given.fields(name, known), "epochs": epochs, "batch": batch, "device": device}
    plain = Recipe(method=methods.get("finetune"), **fields)
    study.preamble(plain, kind, names, seeds, out)
    if not dry_run:
        study.study(plain, kind, names, seeds, out, where)


if __name__ == "__main__":
    main()
