"""A bar that shows how far an estimate has come, and how fast: for terminals only."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator, Sized
from typing import Any

from forgetting.fisher.batches import Batch, count


@contextlib.contextmanager
def shown(
    data: Iterable[Batch], batches: Iterable[Batch], examples: int | None, wanted: bool
) -> Iterator[Iterable[Batch]]:
    """The same batches; a bar on the standard error, where that is a terminal, follows how many were worked through.

    Args:
        data: what the batches come from; its length, where it has one, says how many there will be.
        batches: what to pass on.
        examples: at most so many; then the bar counts examples.
        wanted: nothing is shown without it.
    """
    if not wanted:
        yield batches
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
               TextColumn("{task.fields[unit]}, {task.fields[speed]}"), TimeElapsedColumn())
    total, unit = (_length(data), "batches") if examples is None else (examples, "examples")
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        line = progress.add_task("Fisher", total=total, unit=unit, speed="–")
        yield _followed(batches, progress, line, unit)


def _length(data: Iterable[Batch]) -> int | None:
    """How many batches there are; ``None`` where nobody knows, as with a loader over an iterable data set."""
    try:
        return len(data) if isinstance(data, Sized) else None
    except TypeError:
        return None


def _followed(batches: Iterable[Batch], progress: Any, line: Any, unit: str) -> Iterator[Batch]:
    """The batches; each is counted when the next is asked for, when it is done."""
    start, seen = time.monotonic(), 0
    for batch in batches:
        yield batch
        size = count(batch)
        seen += size
        speed = f"{seen / max(time.monotonic() - start, 1e-9):,.0f} examples/s"
        progress.update(line, advance=1 if unit == "batches" else size, speed=speed)
