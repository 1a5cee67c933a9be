"""A directory of results that survives interruptions: everything in it is whole, or named and done again."""

from __future__ import annotations

import hashlib
import io
import json
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from forgetting.protocol.recipe import FORMAT
from forgetting.protocol.result import Result


class DamagedFile(ValueError):
    """A file of a store that is truncated or was changed."""


class Store:
    """Results on disk, one directory a run.

    ======================================  =====================================================================
    ``store.json``                          the format's version
    ``journal.jsonl``                       one line a finished training: the counter
    ``runs/KEY/result.json``                a finished run
    ``runs/KEY/progress.json``, ``*.pt``    an unfinished one: its figures, and the weights it goes on with
    ``shared/KEY/``                         what runs have in common: the pretraining
    ======================================  =====================================================================

    KEY is a hash of recipe, seed, data and versions, see :meth:`Recipe.key`. A file appears whole or not at all: it
    is written beside its place, flushed to the disk and moved. ``progress.json`` names its weights by their content,
    so moving it is the one moment at which a task becomes finished; the journal's lines are part of it and are
    written again if a crash came between. Two processes may work on one store: the last one's files win, and
    they are equal.

    Args:
        path: the directory.
        create: make it where it does not exist.

    Raises:
        ValueError: for a store of another version, with what to do.
        FileNotFoundError: with ``create=False``, where there is no store.

    **Cost**: the weights, the regularizer's state and the figures are written once a task.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     Store(directory).results()
        []
    """

    def __init__(self, path: str | os.PathLike[str], *, create: bool = True) -> None:
        self.path = Path(path)
        about = self.path / "store.json"
        if about.exists():
            version = _version(about)
            if version != FORMAT:
                raise ValueError(f"{self.path} holds results of store version {version}, this version of forgetting "
                                 f"reads and writes {FORMAT}: choose another directory, or use the version of "
                                 "forgetting that wrote it")
        elif (self.path / "runs").exists():
            raise ValueError(f"{self.path} has runs but no store.json, so they are of another version or the file was "
                             "lost: choose another directory, or use the version of forgetting that wrote it")
        elif create:
            _write(about, json.dumps({"format": FORMAT}).encode())
        else:
            raise FileNotFoundError(f"there is no store of results at {self.path}: 'forgetting run' makes one")

    def results(self) -> list[Result]:
        """All finished runs, in the order of their keys.

        Raises:
            ValueError: naming a result that is truncated or was changed; running its recipe again replaces it.
        """
        return [_result(path) for path in sorted(self.path.glob("runs/*/result.json"))]

    def result(self, key: str) -> Result | None:
        """A finished run; None where it is not finished. A damaged file is put aside with a warning."""
        path = self.path / "runs" / key / "result.json"
        try:
            return _result(path) if path.exists() else None
        except DamagedFile as error:
            _put_aside(path, error, "the run is done again")
            return None

    def save_result(self, result: Result) -> None:
        """Keep a finished run; what it needed to go on is removed."""
        directory = self.path / "runs" / result.key
        _write_json(directory / "result.json", result.as_data())
        for left in (directory / "progress.json", *directory.glob("*.pt")):
            left.unlink(missing_ok=True)

    def progress(self, key: str, device: str = "cpu") -> tuple[dict[str, Any], dict[str, Any]] | None:
        """Figures and tensors of an unfinished run after its last finished task; None where there are none."""
        return self._load(self.path / "runs" / key / "progress.json", device, "the run starts from its first task")

    def save_progress(self, key: str, data: Mapping[str, Any], state: Mapping[str, Any]) -> None:
        """Keep what was learned so far; from here on the run's finished tasks are never trained again."""
        self._save(self.path / "runs" / key / "progress.json", data, state)

    def shared(self, key: str, device: str = "cpu") -> tuple[dict[str, Any], dict[str, Any]] | None:
        """What :meth:`save_shared` kept; None where there is nothing."""
        return self._load(self.path / "shared" / key / "shared.json", device, "the pretraining is done again")

    def save_shared(self, key: str, data: Mapping[str, Any], state: Mapping[str, Any]) -> None:
        """Keep what several runs have in common."""
        self._save(self.path / "shared" / key / "shared.json", data, state)

    def journal(self) -> list[dict[str, Any]]:
        """One entry a finished training, oldest first: the counter. A line cut off by a crash is left out."""
        path = self.path / "journal.jsonl"
        if not path.exists():
            return []
        entries = []
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                entries.append(json.loads(line))
            except json.JSONDecodeError:
                continue  # its progress.json holds the entry too, and _record writes it again
        return entries

    def _record(self, trained: list[dict[str, Any]]) -> None:
        """Append what the journal lacks, each line by one write."""
        known = self.journal()
        for entry in trained:
            if entry not in known:
                path = self.path / "journal.jsonl"
                cut_off = path.exists() and path.stat().st_size and not path.read_bytes().endswith(b"\n")
                with path.open("ab", buffering=0) as file:
                    file.write(("\n" * bool(cut_off) + json.dumps(entry) + "\n").encode())
                    os.fsync(file.fileno())

    def _save(self, path: Path, data: Mapping[str, Any], state: Mapping[str, Any]) -> None:
        """Tensors first, under the name of their content; then the figures that point to them; then the journal."""
        buffer = io.BytesIO()
        torch.save(state, buffer)
        content = buffer.getvalue()
        digest = hashlib.sha256(content).hexdigest()
        weights = path.parent / f"weights-{digest[:16]}.pt"
        _write(weights, content)
        _write_json(path, {"data": data, "weights": weights.name, "digest": digest})
        for old in path.parent.glob("*.pt"):
            if old.name != weights.name:
                old.unlink(missing_ok=True)
        self._record(data["trained"])

    def _load(self, path: Path, device: str, consequence: str) -> tuple[dict[str, Any], dict[str, Any]] | None:
        """What :meth:`_save` wrote; None, with a warning, where it is damaged."""
        if not path.exists():
            return None
        try:
            about = _read(path)
            weights = path.parent / about["weights"]
            content = weights.read_bytes() if weights.exists() else b""
            if hashlib.sha256(content).hexdigest() != about["digest"]:
                raise DamagedFile(f"{weights} is missing, truncated or was changed")
        except DamagedFile as error:
            _put_aside(path, error, consequence)
            return None
        self._record(about["data"]["trained"])
        return about["data"], torch.load(io.BytesIO(content), map_location=device, weights_only=True)


def _version(path: Path) -> Any:
    """The version that a store says it has."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedFile(f"{path} is truncated or was changed ({error}): if this version of forgetting wrote the "
                          f'results beside it, write {{"format": {FORMAT}}} into it; else choose another '
                          "directory") from error


def _result(path: Path) -> Result:
    """A finished run's result."""
    return Result.from_data(_read(path))


def _put_aside(path: Path, error: DamagedFile, consequence: str) -> None:
    """Keep a damaged file under another name, and say so."""
    aside = path.with_name(path.name + ".damaged")
    path.replace(aside)
    warnings.warn(f"{error}: {consequence}; {path.name} was moved to {aside.name}", UserWarning, stacklevel=4)


def _read(path: Path) -> dict[str, Any]:
    """What :func:`_write_json` wrote, or an error that names the file."""
    try:
        whole = json.loads(path.read_text(encoding="utf-8"))
        data, digest = whole["data"], whole["digest"]
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise DamagedFile(f"{path} is truncated or no file of a store ({error}); running the same recipe again "
                          "replaces it") from error
    if digest != _digest(data):
        raise DamagedFile(f"{path} was changed after it was written: its content does not fit its digest; running the "
                          "same recipe again replaces it")
    return data


def _write_json(path: Path, data: Any) -> None:
    """Plain data with its digest, atomically."""
    _write(path, json.dumps({"digest": _digest(data), "data": data}, indent=1).encode())


def _digest(data: Any) -> str:
    """The SHA-256 of plain data."""
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def _write(path: Path, content: bytes) -> None:
    """A whole file or none: written beside its place, flushed to the disk, moved."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
