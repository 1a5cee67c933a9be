"""CIFAR-10 and CIFAR-100: from parquet files, decoded once, or as torchvision keeps them."""

from __future__ import annotations

import contextlib
import hashlib
import io
import uuid
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from forgetting.tasks.folders import cache, data_root

_IMAGES = ("image", "img")
_LABELS = ("label", "fine_label")


def read_cifar(name: str) -> dict[str, tuple[Tensor, Tensor]]:
    """Images uint8 [n, 3, 32, 32] and labels of the parts ``"train"`` and ``"test"``.

    Args:
        name: ``"CIFAR10"`` or ``"CIFAR100"``, as torchvision calls them.
    """
    folder = data_root() / name.lower()
    found = {part: sorted(folder.glob(f"{part}*.parquet")) for part in ("train", "test")}
    if all(found.values()):
        return {part: _decoded(paths) for part, paths in found.items()}
    return _from_torchvision(name, folder)


def _decoded(paths: list[Path]) -> tuple[Tensor, Tensor]:
    """The images and labels of parquet files, from the cache where they were decoded before."""
    contents = [path.read_bytes() for path in paths]
    known = hashlib.sha256(b"".join(hashlib.sha256(content).digest() for content in contents)).hexdigest()[:16]
    kept = cache() / "decoded" / f"{paths[0].parent.name}-{known}.safetensors"
    try:
        stored = load_file(kept)
        return stored["images"], stored["labels"]
    except (OSError, SafetensorError, KeyError):
        pass  # never decoded here, or the copy is damaged: it is made anew
    tables = [_decode(content, path) for content, path in zip(contents, paths, strict=True)]
    images, labels = (torch.cat(parts) for parts in zip(*tables, strict=True))
    _keep({"images": images, "labels": labels}, kept)
    return images, labels


def _keep(tensors: dict[str, Tensor], path: Path) -> None:
    """Write them in one piece; without a place to write, say that each run decodes anew."""
    begun = path.with_suffix(f".{uuid.uuid4().hex}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, begun)
        begun.replace(path)
    except (OSError, SafetensorError) as error:
        with contextlib.suppress(OSError):  # where nothing can be written there is nothing to clear away
            begun.unlink()
        warnings.warn(
            f"the decoded images cannot be kept in {path.parent} ({error}), so they are decoded again each time; set "
            "XDG_CACHE_HOME to a folder that can be written to",
            stacklevel=2,
        )


def _decode(content: bytes, path: Path) -> tuple[Tensor, Tensor]:
    """The rows of one parquet file."""
    try:
        from PIL import Image
        from pyarrow import ArrowInvalid, parquet
    except ImportError as error:
        raise ImportError(
            f'{path} is read with pyarrow and Pillow: pip install "forgetting[vision]" ({error})'
        ) from error
    try:
        table = parquet.read_table(io.BytesIO(content))
    except ArrowInvalid as error:
        raise ValueError(f"{path} is damaged or no parquet file ({error}); get it again") from error
    cells, labels = (_column(table, names, path) for names in (_IMAGES, _LABELS))
    images = np.empty((len(cells), 32, 32, 3), dtype=np.uint8)
    for row, cell in enumerate(cells):
        with Image.open(io.BytesIO(cell["bytes"])) as image:
            if image.size != (32, 32):
                raise ValueError(f"{path}, row {row}: an image of {image.size} pixels; expected 32 × 32")
            images[row] = np.asarray(image.convert("RGB"))
    return _channels_first(images), torch.tensor(labels, dtype=torch.int64)


def _column(table: Any, names: tuple[str, ...], path: Path) -> list[Any]:
    """The column under the first of these names."""
    for name in names:
        if name in table.column_names:
            return table.column(name).to_pylist()
    raise ValueError(f"{path} has the columns {table.column_names}; one of {' or '.join(names)} is expected")


def _channels_first(images: np.ndarray) -> Tensor:
    """uint8 [n, height, width, channels] as [n, channels, height, width]."""
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


def _from_torchvision(name: str, folder: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """As torchvision keeps it, beside the other data or in the user's cache; downloaded where it is in neither."""
    advice = (
        f"{name} was sought as {folder}/train.parquet and test.parquet (columns image and label), and unpacked as "
        f"torchvision keeps it in {data_root()} and {cache()}. Either set the environment variable FORGETTING_DATA to "
        'a folder that holds it, or install torchvision (pip install "forgetting[vision]") and let it download'
    )
    try:
        from torchvision import datasets

        kind = getattr(datasets, name)
        roots = [root for root in (data_root(), cache()) if (root / kind.base_folder).is_dir()]
        place = {"root": str((roots or [cache()])[0]), "download": not roots}
        read = {part: kind(train=part == "train", **place) for part in ("train", "test")}
    except (ImportError, OSError, RuntimeError) as error:
        raise FileNotFoundError(f"{advice}; that failed here: {error}") from error
    return {part: (_channels_first(each.data), torch.tensor(each.targets)) for part, each in read.items()}
