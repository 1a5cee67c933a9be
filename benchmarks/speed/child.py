"""One measurement in a process of its own; its last line on stdout is the entry as JSON.

``python -m benchmarks.speed.child PART ROW WHAT --device cpu …``; :mod:`benchmarks.speed.__main__` calls it.
"""

from __future__ import annotations

import json
from pathlib import Path

import click

from benchmarks.speed import measure
from benchmarks.speed.plan import entries_of


@click.command()
@click.argument("part")
@click.argument("row")
@click.argument("what", required=False)
@click.option("--device", default="cpu")
@click.option("--rounds", type=int)
@click.option("--threads", default=2)
@click.option("--folder", type=click.Path(path_type=Path), default=Path())
def main(part: str, row: str, what: str | None, device: str, rounds: int | None, threads: int, folder: Path) -> None:
    """Measure and say."""
    measure.prepare(device, threads)
    if part == "empirical":
        entry = measure.empirical(measure.ROWS[device][row], device, rounds)
    elif part == "peaks":
        entry = measure.peaks(measure.ROWS[device][row], device, what)
    elif part == "peers":
        from benchmarks.speed.compare import peer

        entry = peer(measure.ROWS[device][row], what, device, rounds, folder)
    else:
        entry = entries_of(part)[row](rounds)
    click.echo(json.dumps(entry))


if __name__ == "__main__":
    main()
