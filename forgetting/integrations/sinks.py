"""Where the figures of a run go: one interface in front of wandb, tensorboard and whatever else keeps curves."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any

from forgetting.protocol import Result, metrics

Event = dict[str, Any]
_IDENTIFYING = ("event", "method", "sequence", "seed", "key", "name", "tasks", "phase", "steps", "accuracy")


class Sink(ABC):
    """A tool that keeps what a run tells it; :func:`observed` makes an observer of it."""

    @abstractmethod
    def open(self, start: Event) -> None:
        """The run begins, or goes on: its ``"start"`` event."""

    @abstractmethod
    def row(self, figures: dict[str, Any], event: Event) -> None:
        """Figures of one moment, by name, and the event that they are of."""

    @abstractmethod
    def summary(self, figures: dict[str, Any]) -> None:
        """What came out."""

    @abstractmethod
    def close(self, *, failed: bool) -> None:
        """The run has ended; called only where it was opened."""


@contextlib.contextmanager
def observed(sink: Sink) -> Iterator[Callable[[Event], None]]:
    """An observer for :func:`forgetting.run` that hands a run's figures to a sink, and closes it at the end."""
    opened = False

    def observe(event: Event) -> None:
        nonlocal opened
        if event["event"] == "start":
            sink.open(event)
            opened = True
        elif event["event"] == "result":
            sink.summary(summary(event["result"]))
        elif figures := logged(event):
            sink.row(figures, event)

    failed = True
    try:
        yield observe
        failed = False
    finally:
        if opened:
            sink.close(failed=failed)


def logged(event: Event) -> dict[str, Any]:
    """The figures of one event, by name; nothing for an event without any."""
    plain = {name: value for name, value in event.items() if name not in _IDENTIFYING and value is not None}
    if event["event"] == "step":
        before = f"{event['phase']}/" if "phase" in event else ""
        accuracy = {f"accuracy/{name}": value for name, value in event["accuracy"].items()}
        return {f"{before}{name}": value for name, value in {**plain, **accuracy}.items()}
    if event["event"] == "task":
        return {**plain, **{f"learned/{number}": value for number, value in enumerate(event["accuracy"], 1)}}
    if event["event"] == "consolidation":
        return {"task": event["task"], "consolidation_seconds": event["seconds"]}
    return {}


def summary(result: Result) -> dict[str, Any]:
    """A finished run in one row: what the tables show, and the accuracy matrix as nested lists."""
    matrix = result.accuracy
    row = {
        "source_before": float(matrix[1, 0]),
        "source_after": float(matrix[-1, 0]),
        "average_accuracy": metrics.average_accuracy(matrix),
        "seconds": result.seconds,
        "peak_bytes": result.peak_bytes,
        "accuracy_matrix": matrix.tolist(),
    }
    if matrix[1, 0] > 0:
        row["retention"] = metrics.retention(matrix)
    if matrix.shape[1] > 1:
        row["forgetting"] = metrics.forgetting(matrix)
    if result.restored is not None:
        row["source_after_with_old_statistics"] = result.restored
    return row
