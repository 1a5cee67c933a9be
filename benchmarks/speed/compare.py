"""One peer on one row: right and how fast, wrong and how far off, or crashed and with which words."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.speed import clock, error
from benchmarks.speed.measure import Entry, diagonal, forward_backward, load
from benchmarks.speed.models import Row
from benchmarks.speed.peers import PEERS, Call, Peer

WRONG = 1e-3  # far below any fault seen; float32's own noise is more where a ReLU's input lies at its kink
WIDTH = 120


def peer(row: Row, name: str, device: str, rounds: int | None, folder: Path) -> Entry:
    """First its error on the row's first examples; then, if it is right, rounds between ours and the baseline."""
    one = PEERS[name]
    truth, loop = _truth(row, folder)
    return attempt(one, lambda: one.adapter(row, row.model(device), row.data(1, device, batch=row.examples)), truth,
                   loop, lambda: _timed(row, one, device, rounds))


def attempt(one: Peer, make: Callable[[], Call], truth: error.Fisher, loop: float,
            timed: Callable[[], Entry]) -> Entry:
    """The error of the estimate that ``make`` prepares; if it is right, its times."""
    entry: Entry = {"title": one.title, "package": one.package, "version": one.version(), "load": load()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            entry["error"] = error.relative(make()(), truth)
            right = entry["error"]["worst"] <= max(WRONG, error.LOOPS * loop)
            return {**entry, "status": "right", **timed()} if right else {**entry, "status": "wrong"}
        except Exception as problem:  # noqa: BLE001 - whatever a peer raises is its result
            return {**entry, "status": "crash", "exception": _words(problem)}


def _timed(row: Row, one: Peer, device: str, rounds: int | None) -> Entry:
    data = row.data(max(2, row.batches // 2), device)
    model = row.model(device)
    times = clock.interleave({
        "forward+backward": forward_backward(row, model, data), "ours": diagonal(row, model, data),
        "peer": one.adapter(row, row.model(device), data)}, rounds or 3, device)
    return {"time": clock.ratio(times, "peer", "forward+backward"),
            "to_ours": clock.ratio(times, "peer", "ours"), "batches": len(data), "rounds": rounds or 3}


def _truth(row: Row, folder: Path) -> tuple[error.Fisher, float]:
    """The oracle's value and the float32 loop's error, computed once a row and kept in the run's own folder."""
    file = folder / f"{row.name}.pt"
    if not file.exists():
        torch.save(error.references(row, row.model(), row.data(1, batch=row.examples)[0]), file)
    return torch.load(file, weights_only=True)


def _words(problem: Exception) -> str:
    """The kind of an exception and the first line of what it says."""
    lines = str(problem).strip().splitlines()
    return f"{type(problem).__name__}: {lines[0] if lines else ''}"[:WIDTH]
