"""A model file and two folders of images, for those who have none at hand: python two_folders.py FOLDER

Scikit-learn's digits: a third of them trains the model, a third lies in source/0 … source/9 as the model knows them,
a third in target/0 … target/9, turned by a quarter.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional

from forgetting.tasks.labelled import labelled


def build() -> nn.Module:
    """The bare network: here yours would stand."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, 10))


def held_out() -> object:
    """Batches of the source on which ``forgetting compare`` may look."""
    return labelled("source", pixels=8).test.batches(64)


def pretrained(images: np.ndarray, digits: np.ndarray) -> nn.Module:
    """The network, trained on these images, eight passes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build()
    inputs = torch.from_numpy(images).float().div(255).unsqueeze(1).expand(-1, 3, -1, -1)
    targets, order = torch.from_numpy(digits), torch.Generator().manual_seed(0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for _ in range(8):
        for rows in torch.randperm(len(inputs), generator=order).split(32):
            optimizer.zero_grad()
            functional.cross_entropy(model(inputs[rows]), targets[rows]).backward()
            optimizer.step()
    return model


def prepare(folder: str) -> None:
    """Write model.pt, source/CLASS/*.png and target/CLASS/*.png."""
    digits = load_digits()
    images, labels = (digits.images * 15.9375).astype(np.uint8), digits.target.astype(np.int64)
    order = np.random.default_rng(0).permutation(len(labels))
    known, source, target = np.array_split(order, 3)
    torch.save(pretrained(images[known], labels[known]).state_dict(), Path(folder) / "model.pt")
    for name, rows, turns in (("source", source, 0), ("target", target, 1)):
        for row in rows:
            place = Path(folder) / name / str(labels[row])
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.rot90(images[row], turns)).save(place / f"{row}.png")


if __name__ == "__main__":
    prepare(sys.argv[1] if len(sys.argv) > 1 else ".")
