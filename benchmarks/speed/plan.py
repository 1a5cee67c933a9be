"""What there is to measure: parts, their rows, and in which order."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import ModuleType

from benchmarks.speed.measure import ROWS
from benchmarks.speed.peers import PEERS

OF_THEIR_OWN = {"exact": "benchmarks.speed.exact", "kronecker": "benchmarks.speed.kronecker",
                "penalty": "benchmarks.speed.penalty", "steps": "benchmarks.speed.steps",
                "exact-peers": "benchmarks.speed.exact_peers"}
"""Modules with ``ENTRIES``: name -> function of the number of rounds (None: its own) that returns an entry; and, if
they like, ``missing(name)``: packages that are not installed."""
OURS, OTHERS = ("empirical", "exact", "kronecker", "penalty", "steps"), ("peers", "exact-peers")


@dataclass(frozen=True)
class Item:
    """One entry to make; ``missing``: why it cannot be made here."""

    part: str
    row: str
    what: str | None = None
    missing: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        return "/".join(word for word in (self.part, self.row, self.what) if word)


def entries_of(part: str) -> dict[str, Callable]:
    """The entries of a part that has a module of its own."""
    return getattr(module(part), "ENTRIES", {})


def module(part: str) -> ModuleType | None:
    """The module that a part has for itself, where it exists."""
    name = OF_THEIR_OWN[part]
    return importlib.import_module(name) if importlib.util.find_spec(name) else None


def items(device: str, parts: Iterable[str], rows: Iterable[str] | None = None) -> list[Item]:
    """All that these parts hold for these rows (None: every one)."""
    models = ROWS[device]
    wanted = None if rows is None else set(rows)
    found = []
    for part in parts:
        if part == "empirical":
            found += [Item(part, row.name, missing=tuple(row.missing())) for row in models.values()]
        elif part == "peers":
            found += [Item(part, row.name, name, tuple(row.missing()) + (() if peer.version() else (peer.package,)))
                      for row in models.values() for name, peer in PEERS.items()]
        elif device == "cpu":
            missing = getattr(module(part), "missing", lambda _: [])
            found += [Item(part, row, missing=tuple(missing(row))) for row in entries_of(part)]
    unknown = sorted((wanted or set()) - {item.row.partition("/")[0] for item in found})
    if unknown:
        raise ValueError(f"no such row here: {', '.join(unknown)}; there are {', '.join(sorted(models))}")
    return [item for item in found if wanted is None or item.row.partition("/")[0] in wanted]
