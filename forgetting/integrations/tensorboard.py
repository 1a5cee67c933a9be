"""Runs in TensorBoard: figures a step and a task, and what came out. Needs the extra ``tensorboard``."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from forgetting.integrations.sinks import Event, Sink, observed
from forgetting.protocol import Recipe


@contextlib.contextmanager
def observing(
    recipe: Recipe, seed: int = 0, *, directory: str | os.PathLike[str] = "runs"
) -> Iterator[Callable[[Event], None]]:
    """An observer for :func:`forgetting.run` that writes one folder of TensorBoard's for one recipe and seed.

    Scalars over the steps of a task: ``task_NUMBER/loss``, ``task_NUMBER/accuracy/TASK`` and, with a regularizer,
    penalty, pull, gradient and ratio (``pretraining/…`` while the source is learned). Over tasks: ``learned/NUMBER``,
    the accuracy on each task, and seconds; at the last one ``summary/…``: source accuracy before and after, retention,
    average accuracy, forgetting, seconds. As texts: the recipe and the accuracy matrix. The folder is named by the
    run's key, so that a resumed run goes on in the same place; of a run that the store knows already only recipe and
    summary are written.

    Args:
        recipe: what is run.
        seed: of the run.
        directory: for ``tensorboard --logdir``; each run has a folder in it.

    Returns:
        A context that gives the observer, and closes the files.

    Raises:
        ModuleNotFoundError: without tensorboard.

    **Cost**: a thread that writes; nothing is measured for it.

    Example:
        >>> with observing(Recipe("digits-transfer"), seed=0, directory="curves") as observe:   # doctest: +SKIP
        ...     forgetting.run(Recipe("digits-transfer"), seed=0, observe=observe)
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ModuleNotFoundError as error:
        if error.name != "tensorboard":
            raise
        raise ModuleNotFoundError("logging to TensorBoard needs the extra 'tensorboard': pip install "
                                  "'forgetting[tensorboard]'", name="tensorboard") from error
    with observed(_Folder(SummaryWriter, recipe, seed, Path(directory))) as observe:
        yield observe


class _Folder(Sink):
    """One folder of event files."""

    def __init__(self, writer: Callable[[str], Any], recipe: Recipe, seed: int, directory: Path) -> None:
        self.make, self.recipe, self.seed, self.directory = writer, recipe, seed, directory
        self.writer: Any = None
        self.tasks = 0

    def open(self, start: Event) -> None:
        name = f"{start['sequence']}-{start['method']}-seed{self.seed}-{start['key']}"
        self.writer, self.tasks = self.make(str(self.directory / name)), len(start["tasks"])
        self.writer.add_text("recipe", _code(self.recipe.as_data()))

    def row(self, figures: dict[str, Any], event: Event) -> None:
        inside = event["event"] == "step"
        before = f"task_{event['task']}/" if inside and "phase" not in event else ""
        for name, value in figures.items():
            if name.rpartition("/")[2] not in ("task", "step"):  # where it is, not what
                self.writer.add_scalar(f"{before}{name}", value, event["step"] if inside else event["task"])

    def summary(self, figures: dict[str, Any]) -> None:
        for name, value in figures.items():
            if isinstance(value, list):
                self.writer.add_text(name, _code(value))
            else:
                self.writer.add_scalar(f"summary/{name}", value, self.tasks)

    def close(self, *, failed: bool) -> None:
        self.writer.close()


def _code(value: Any) -> str:
    """A value as a block of code in TensorBoard's Markdown."""
    return "".join(f"    {line}\n" for line in json.dumps(value, indent=1).splitlines())
