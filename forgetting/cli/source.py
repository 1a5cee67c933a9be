"""The user's own files: a function in one of them, its errors with their line, what it may return."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

from forgetting.cli.console import TRACEBACK
from forgetting.tasks.unknown import nearest


@contextlib.contextmanager
def users_code(*references: str) -> Iterator[None]:
    """What the files of these references import lies beside them; what they raise is shown with its type and line."""
    paths = {Path(reference.rpartition(":")[0]).resolve() for reference in references}
    before = list(sys.path)
    sys.path[:0] = sorted({str(path.parent) for path in paths})
    try:
        yield
    except Exception as error:
        where = _place(error, paths)
        if where is None or os.environ.get(TRACEBACK):
            raise
        text = error.msg if isinstance(error, SyntaxError) else error
        raise click.ClickException(f"{type(error).__name__}: {text}\n({where}; {TRACEBACK}=1 shows all)") from error
    finally:
        sys.path[:] = before


def _place(error: Exception, paths: set[Path]) -> str | None:
    """File and line in the user's files where an error comes from, if it does."""
    if isinstance(error, SyntaxError) and error.filename and Path(error.filename).resolve() in paths:
        return f"{error.filename}, line {error.lineno}"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename).resolve() in paths]
    return f"{frames[-1].filename}, line {frames[-1].lineno}, in {frames[-1].name}" if frames else None


def result(reference: str, expected: str, fits: Callable[[Any], bool]) -> Any:
    """What the function of a reference ``FILE.py:function`` returns, if it is what is expected."""
    found = _function(reference)
    value = found()
    if not fits(value):
        raise TypeError(f"{reference} returned a {type(value).__name__}, expected {expected}")
    return value


def _function(reference: str) -> Callable[[], Any]:
    """A function without arguments in a file."""
    place, colon, name = reference.rpartition(":")
    if not (colon and place.endswith(".py") and name.isidentifier()):
        raise ValueError(f"{reference!r} names no function: expected FILE.py:function")
    path = Path(place)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path} (looked in {Path.cwd()})")
    module = f"forgetting_file_{path.stem}_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]}"
    spec = importlib.util.spec_from_file_location(module, path)
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    sys.modules[module] = made  # dataclasses and pickle look their module up
    try:
        spec.loader.exec_module(made)
    except BaseException:
        del sys.modules[module]
        raise
    if not hasattr(made, name):
        known = [key for key, value in vars(made).items() if inspect.isroutine(value) and not key.startswith("_")]
        raise ValueError(nearest(f"function in {place}", name, known) if known else f"{place} defines no function")
    found = getattr(made, name)
    if not callable(found):
        raise TypeError(f"{reference} is a {type(found).__name__}, expected a function without arguments")
    try:
        inspect.signature(found).bind()
    except TypeError as error:
        raise TypeError(f"{reference}{inspect.signature(found)} must be callable without arguments: {error}") from error
    return found
