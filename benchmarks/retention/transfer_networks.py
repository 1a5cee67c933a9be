"""Pretrained models for the question whether transfer pays, the same ones with fresh weights, and their targets."""

from __future__ import annotations

from dataclasses import dataclass
from operator import methodcaller
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from forgetting import tasks
from forgetting.tasks import DataSplit, TaskSequence
from forgetting.tasks.images import grayscale, unlabelled
from forgetting.tasks.pretrained import NONE, Classifier
from forgetting.tasks.sequences import keyed
from forgetting.tasks.sizes import Sizes

MLP = "mlp"
PLAIN, PERMUTED, SHUFFLED = "mnist", "permuted-mnist", "shuffled-labels"
SOURCES = (PLAIN, PERMUTED, SHUFFLED)
_READ = {"MNIST": tasks.mnist, "Fashion-MNIST": tasks.fashion_mnist}
_IMAGES, _PASSES, _BATCH, _RATE = 10_000, 20, 64, 0.001  # of pretraining


@dataclass(frozen=True)
class Fresh:
    """A classifier by name whose weights are drawn anew, each layer's as torch draws them (not as its paper does).

    Args:
        like: which architecture.
    """

    like: Classifier

    def __post_init__(self) -> None:
        object.__setattr__(self, "__qualname__", f"{self.like.name} from scratch")  # what a recipe calls it

    def __call__(self, sequence: TaskSequence) -> nn.Module:
        model = Classifier(self.like.name, NONE, self.like.pixels)(sequence)
        for module in model.modules():
            if callable(draw := getattr(module, "reset_parameters", None)):
                draw()
        return model


@dataclass(frozen=True)
class Saved:
    """The MLP with the hidden layers of a file; its head is fresh.

    Args:
        path: what :func:`pretrain` wrote.
    """

    path: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "__qualname__", f"mlp of {self.path.stem}")  # what a recipe calls it

    def __call__(self, sequence: TaskSequence) -> nn.Module:
        model = tasks.network(MLP, sequence)
        model.get_submodule("body").load_state_dict(torch.load(self.path, weights_only=True))
        return model


def pretrain(source: str, folder: Path) -> Path:
    """The MLP's hidden layers after 20 passes over 10 000 MNIST images; where the file is there, nothing is learned.

    Args:
        source: ``"mnist"``; ``"permuted-mnist"``, in a fixed order of the pixels; ``"shuffled-labels"``, with the
            labels dealt out at random.
        folder: for the file.
    """
    path = folder / f"{source}.pt"
    if path.exists():
        return path
    train = tasks.mnist(0, validation=0.0).train
    train = train.subset(_order(len(train))[:_IMAGES])
    inputs, targets = train.inputs, train.targets
    if source == PERMUTED:
        order = torch.from_numpy(keyed(0, "transfer pixels").permutation(inputs[0].numel()))
        inputs = inputs.flatten(1)[:, order].view_as(inputs)
    if source == SHUFFLED:
        targets = targets[torch.from_numpy(keyed(0, "transfer labels").permutation(len(targets)))]
    model = _learned(inputs, targets)
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(model.get_submodule("body").state_dict(), path.with_suffix(".part"))
    path.with_suffix(".part").replace(path)
    return path


def _order(images: int) -> np.ndarray:
    """Which of MNIST's images :func:`pretrain` takes first; no target has them."""
    return keyed(0, "transfer source").permutation(images)


def _learned(inputs: torch.Tensor, targets: torch.Tensor) -> nn.Module:
    """An MLP after training, by Adam."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        part = tasks.Examples(inputs[:1], targets[:1])
        source = tasks.Task.of("source", DataSplit(part, part, part), range(10))
        model = tasks.network(MLP, TaskSequence("source", (source,), "domain", 10, pretrained=False))
    optimizer = torch.optim.Adam(model.parameters(), lr=_RATE)
    generator = torch.Generator().manual_seed(0)
    for _ in range(_PASSES):
        for rows in torch.randperm(len(inputs), generator=generator).split(_BATCH):
            optimizer.zero_grad()
            functional.cross_entropy(model(inputs[rows]), targets[rows]).backward()
            optimizer.step()
    return model


def target(name: str, sizes: Sizes, network: Classifier | None) -> DataSplit:
    """Images to adapt to, as the network takes them: for a classifier, its columns begin after its own."""
    if network is None:
        whole = _READ[name](0, validation=0.0)
        learned = keyed(0, f"transfer {name} train").permutation(len(whole.train))
        if name == "MNIST":
            learned = learned[~np.isin(learned, _order(len(whole.train))[:_IMAGES])]
        tested = keyed(0, f"transfer {name} test").permutation(len(whole.test))[: sizes.test]
        cut = sizes.train + sizes.validation
        return DataSplit(whole.train.subset(learned[: sizes.train]), whole.train.subset(learned[sizes.train : cut]),
                         whole.test.subset(tested))
    parts = unlabelled(sizes)[1] if name == "CIFAR-10" else grayscale(name, sizes)
    first = network.classes()
    return parts.map(methodcaller("relabelled", torch.arange(first, first + 10)))
