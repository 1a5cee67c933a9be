"""The data sets of the named sequences: scikit-learn's digits, which need no download, and MNIST from a folder."""

from __future__ import annotations

import gzip
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from forgetting.tasks.examples import Examples
from forgetting.tasks.sequences import data_split, hold_out, keyed
from forgetting.tasks.task import DataSplit

_MNIST = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}


def data_root() -> Path:
    """The folder of the data sets: the environment variable ``FORGETTING_DATA``, or ``~/.cache/forgetting``.

    **Cost**: none; nothing is read or made.

    Example:
        >>> (data_root() / "MNIST").name
        'MNIST'
    """
    given = os.environ.get("FORGETTING_DATA")
    return Path(given).expanduser() if given else Path.home() / ".cache" / "forgetting"


def digits(seed: int = 0) -> DataSplit:
    """The 1797 handwritten digits that come with scikit-learn: 8 × 8 pixels, 16 grey levels, scaled to [0, 1].

    A stratified 30 % is the test part, the same for EVERY seed. Of the rest a stratified 20 % is held out for
    validation; the seed decides which.

    Args:
        seed: at least 0.

    Raises:
        ImportError: where scikit-learn is missing, with the command that installs it.

    **Cost**: half a megabyte.

    Example:
        >>> [len(part) for part in digits()]
        [1008, 250, 539]
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError(
            'the digits come with scikit-learn, which is not installed: pip install "forgetting[digits]"'
        ) from error
    found = load_digits()
    images = torch.from_numpy(found.images).to(torch.float32).unsqueeze(1) / 16
    everything = Examples(images, torch.from_numpy(found.target))
    test, rest = hold_out(everything.targets, 0.3, keyed(0, "digits test"))
    return data_split(everything.subset(rest), everything.subset(test), validation=0.2, seed=seed)


def mnist(seed: int = 0) -> DataSplit:
    """MNIST from ``MNIST/raw`` in :func:`data_root`, gzipped or not; where it is not there, torchvision downloads it.

    The test part is MNIST's own, the same for every seed. Of the 60 000 others a stratified twelfth, about 5 000, is
    held out for validation; the seed decides which.

    Args:
        seed: at least 0.

    Raises:
        FileNotFoundError: where there is no MNIST and no way to get it, with where it was sought.
        ValueError: where a file is damaged.

    **Cost**: 55 MB, a byte a pixel.
    """
    folder = data_root() / "MNIST" / "raw"
    if not all(_stored(folder, name) for names in _MNIST.values() for name in names):
        _download(folder)
    train, test = (Examples(*_read_part(folder, part)) for part in ("train", "test"))
    return data_split(train, test, validation=1 / 12, seed=seed)


def _read_part(folder: Path, part: str) -> tuple[Tensor, Tensor]:
    """Images uint8 [n, 1, 28, 28] and labels of one part."""
    paths = [_stored(folder, name) for name in _MNIST[part]]
    if None in paths:
        raise FileNotFoundError(f"{folder} lost one of the files {', '.join(_MNIST[part])}")
    images, labels = (read_idx(path) for path in paths if path is not None)
    if images.dim() != 3 or labels.dim() != 1 or len(images) != len(labels):
        raise ValueError(
            f"{paths[0]} holds {tuple(images.shape)} and {paths[1]} {tuple(labels.shape)}; one label an image of two "
            "dimensions is expected: get both again"
        )
    return images.unsqueeze(1), labels


def _stored(folder: Path, name: str) -> Path | None:
    """The file, gzipped or not, where there is one."""
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def _download(folder: Path) -> None:
    """Let torchvision fetch MNIST, or say where it was sought and how to get it."""
    advice = (
        f"MNIST was sought in {folder} (train-images-idx3-ubyte and its three companions, gzipped or not) and is not "
        "there. Either set the environment variable FORGETTING_DATA to a folder that holds MNIST/raw, or install "
        'torchvision (pip install "forgetting[vision]") and let it download into that folder'
    )
    try:
        from torchvision.datasets import MNIST

        MNIST(str(folder.parent.parent), download=True)
    except (ImportError, OSError, RuntimeError) as error:
        raise FileNotFoundError(f"{advice}; that failed here: {error}") from error


def read_idx(path: Path) -> Tensor:
    """The bytes of an idx file (big-endian header: two zeros, type 8, dimensions, sizes), gzipped or not.

    Raises:
        ValueError: where the file is damaged or of another kind.
    """
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        kind, dimensions = struct.unpack(">HBB", content[:4])[1:]
        shape = struct.unpack(f">{dimensions}I", content[4 : 4 + 4 * dimensions])
    except (struct.error, EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path} is damaged ({error}); delete it and get it again") from error
    body = content[4 + 4 * dimensions :]
    if kind != 8 or len(body) != int(np.prod(shape)):
        raise ValueError(
            f"{path} is damaged or no idx file of bytes: its header says type {kind} (expected 8) and shape {shape}, "
            f"{len(body)} bytes follow; delete it and get it again"
        )
    return torch.from_numpy(np.frombuffer(body, dtype=np.uint8).reshape(shape).copy())
