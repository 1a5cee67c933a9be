"""A folder of labelled images, one folder a class, as examples."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from forgetting.tasks.examples import Examples
from forgetting.tasks.sequences import hold_out, keyed
from forgetting.tasks.task import DataSplit

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
_NUMBER = re.compile(r"^\d+[_\W]+")
_NUMBERED = re.compile(r"(\d+)(?:[_\W].*)?")


def labelled(
    folder: str | Path, pixels: int, *, classes: Mapping[str, int] | None = None, columns: int | None = None,
    test: float = 0.3, validation: float = 0.2, most: Sequence[int] | None = None, seed: int = 0,
) -> DataSplit:
    """Images in ``folder/CLASS/*``, cut into training, validation and test examples.

    A class folder is named by its column (``207`` or ``207_golden retriever``), or ``classes`` says which column its
    name is. Each image is scaled until its shorter side has ``pixels``, and its middle is cut out. What does not end
    in .jpg, .jpeg, .png, .bmp or .webp is no image.

    Args:
        folder: holds one folder a class; those whose name begins with a dot are left out.
        pixels: height and width of the examples.
        classes: folder name -> column; see :func:`class_columns`.
        columns: how many the model has; None does not check.
        test: the share of each class that is held out to report on, above 0 and below 1.
        validation: the share of each class's rest that is held out to choose on, above 0 and below 1.
        most: at most so many training, validation and test examples, drawn by the seed; None takes all.
        seed: of what is held out and drawn.

    Raises:
        ValueError: a folder that is none or has no class folders, a class folder without images or of unknown name, a
            column that the model does not have, fewer than two classes, an image that cannot be read; all with their
            path.
        ImportError: where Pillow is missing.

    **Cost**: the images that are taken are read once; in memory 3·pixels² bytes each.

    Example:
        >>> labelled("photos", 64, columns=1000).test            # doctest: +SKIP
        Examples(300 of shape (3, 64, 64), 10 classes)
    """
    files = _files(Path(folder), classes, columns)
    targets = torch.tensor([column for _, column in files])
    tested, rest = hold_out(targets, test, keyed(seed, "labelled test"))
    held, learned = hold_out(targets[rest], validation, keyed(seed, "labelled validation"))
    parts = [rest[learned], rest[held], tested]
    for place, count in enumerate(most or ()):
        order = torch.from_numpy(keyed(seed, f"labelled part {place}").permutation(len(parts[place])))
        parts[place] = parts[place][order[:count]]
    return DataSplit(*(_read(files, part.tolist(), pixels) for part in parts))


def class_columns(path: str | Path) -> dict[str, int]:
    """Folder names and their columns, of a JSON file.

    Args:
        path: either name -> column, or column -> one name or several (``{"0": ["n01440764", "tench"], …}``, as
            ImageNet's class index has it). A name of two columns (ImageNet has two cranes) is left out.

    Raises:
        ValueError: where it is neither.

    **Cost**: none worth naming.

    Example:
        >>> class_columns("imagenet_class_index.json")["tench"]         # doctest: +SKIP
        0
    """
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
        pairs = [pair for key, value in found.items() for pair in _pairs(key, value)]
    except (OSError, ValueError, AttributeError) as error:
        raise ValueError(f"{path} is no class index ({error}): expected JSON, folder name -> column, or column -> "
                         "names") from error
    columns: dict[str, set[int]] = {}
    for name, column in pairs:
        columns.setdefault(name, set()).add(column)
    return {name: min(known) for name, known in columns.items() if len(known) == 1}


def class_folders(folder: Path) -> list[Path]:
    """The class folders in a folder, in the order of their names; raises where there is none."""
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder; expected one that holds a folder of images for each class")
    inside = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not inside:
        loose = " (images lie in it directly: name the folder above)" if _images(folder) else ""
        raise ValueError(f"{folder} holds no class folders{loose}; expected {folder.name}/CLASS/*.jpg")
    return inside


def spoken(name: str) -> str:
    """A class folder's name as one would say it: ``207_golden_retriever`` is a golden retriever."""
    words = re.sub(r"[_\s]+", " ", _NUMBER.sub("", name)).strip()
    return words or name


def _pairs(key: str, value: Any) -> list[tuple[str, int]]:
    """Name and column of one entry, whichever way round it is."""
    if isinstance(value, int) and not isinstance(value, bool):
        return [(key, value)]
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"the entry of {key!r} is {value!r}")
    return [(name, int(key)) for name in names]


def _files(folder: Path, classes: Mapping[str, int] | None, columns: int | None) -> list[tuple[Path, int]]:
    """Every image with its column."""
    inside = class_folders(folder)
    files = []
    for path in inside:
        column, images = _column(path, classes, columns), _images(path)
        if not images:
            raise ValueError(f"{path} holds no images ({', '.join(SUFFIXES)}): put some there or take it away")
        files += [(image, column) for image in images]
    known = {column for _, column in files}
    if len(known) < 2:
        raise ValueError(f"{folder} holds images of one class only ({inside[0].name}): accuracy needs at least two")
    return files


def _images(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file())


def _column(path: Path, classes: Mapping[str, int] | None, columns: int | None) -> int:
    """The column of a class folder."""
    numbered = _NUMBERED.fullmatch(path.name)
    if classes is not None:
        column = classes.get(path.name)
        if column is None:
            some = ", ".join(list(classes)[:5])
            raise ValueError(f"{path}: the class index knows no {path.name!r}; it knows {some}…")
    elif numbered:
        column = int(numbered[1])
    else:
        raise ValueError(f"{path}: the folder names no class of the model; begin its name with the class's number "
                         f"(207_{path.name}), or give a class index that knows {path.name!r}")
    if columns is not None and not 0 <= column < columns:
        raise ValueError(f"{path}: class {column}, but the model has the classes 0…{columns - 1}")
    return column


def _read(files: Sequence[tuple[Path, int]], places: Sequence[int], pixels: int) -> Examples:
    """These images, a byte a pixel."""
    images = torch.empty(len(places), 3, pixels, pixels, dtype=torch.uint8)
    for row, place in enumerate(places):
        images[row] = _image(files[place][0], pixels)
    return Examples(images, torch.tensor([files[place][1] for place in places], dtype=torch.int64))


def _image(path: Path, pixels: int) -> Tensor:
    """The middle of one image, uint8 [3, pixels, pixels]."""
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise ImportError(f'{path} is read with Pillow: pip install "forgetting[vision]"') from error
    try:
        with Image.open(path) as image:
            middle = ImageOps.fit(image.convert("RGB"), (pixels, pixels), Image.Resampling.BILINEAR)
    except (OSError, ValueError, SyntaxError) as error:
        raise ValueError(f"{path} cannot be read as an image ({error}): get it again or take it away") from error
    return torch.from_numpy(np.array(middle)).permute(2, 0, 1)
