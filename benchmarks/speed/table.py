"""The tables of docs/speed.md, from the results files: ``python -m benchmarks.speed.table``.

``--check`` only compares; a test holds the page equal to the files.
"""

from __future__ import annotations

from collections.abc import Callable

from benchmarks import pages
from benchmarks.speed import plan, tables
from benchmarks.speed.store import RESULTS, read

PAGE = pages.DOCS / "speed.md"


def entries(device: str) -> dict[str, dict]:
    """Every entry of a device's results file, none where there is no file."""
    file = RESULTS / f"{device}.json"
    return read(file)["entries"] if file.exists() else {}


def part(device: str, name: str) -> dict[str, dict]:
    """The entries of one part, by the rest of their keys."""
    return {key.partition("/")[2]: entry for key, entry in entries(device).items() if key.startswith(f"{name}/")}


def environments() -> str:
    """A line a results file."""
    files = [RESULTS / f"{device}.json" for device in ("cpu", "cuda")]
    return "".join(tables.environment(read(file)["environment"]) for file in files if file.exists())


def own(name: str) -> str:
    """A part that makes its own table: ``table(entries)`` of its module."""
    found, make = part("cpu", name), getattr(plan.module(name), "table", None)
    return make(found) if found and make else ""


TABLES: dict[str, Callable[[], str]] = {
    "environment": environments,
    "empirical": lambda: tables.empirical(part("cpu", "empirical")),
    "peers": lambda: tables.peers(part("cpu", "peers"), part("cpu", "empirical")),
    "exact": lambda: tables.exact(part("cpu", "exact"), part("cpu", "exact-peers")),
    "kronecker": lambda: tables.kronecker(part("cpu", "kronecker")),
    "penalty": lambda: own("penalty"),
    "steps": lambda: own("steps"),
    "cuda": lambda: tables.empirical(part("cuda", "empirical")),
    "cuda-peers": lambda: tables.peers(part("cuda", "peers"), part("cuda", "empirical")),
}


main = pages.command([PAGE], TABLES, "Write the tables of docs/speed.md.")

if __name__ == "__main__":
    main()
