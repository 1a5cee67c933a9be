"""Keep a directory of runs as one committed file: ``python -m benchmarks.retention.record DIR NAME``.

``benchmarks/retention/results/NAME.json`` then holds the table of ``forgetting run --json``, the recipe of each method,
the accuracy matrix of every run, where and with what they were made, and what a study chose before them
(``chosen.json`` beside the directory).
"""

from __future__ import annotations

import json
from pathlib import Path

import click

from forgetting import report
from forgetting.protocol import Store

RESULTS = Path(__file__).with_name("results")


@click.command()
@click.argument("directory", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.argument("name")
def main(directory: Path, name: str) -> None:
    """Write what DIRECTORY holds into the file of that NAME."""
    results = sorted(Store(directory, create=False).results(), key=lambda result: (result.method, result.seed))
    kept = {
        "environment": {key: results[0].provenance[key] for key in ("versions", "platform", "threads", "device")},
        "table": report.rows(results),
        "runs": [{"method": result.method, "seed": result.seed, "data": result.provenance["data"],
                  "recipe": result.recipe, "accuracy": result.accuracy.tolist(), "seconds": result.seconds,
                  "peak_bytes": result.peak_bytes} for result in results],
    }
    chosen = directory.parent / "chosen.json"
    if chosen.is_file():
        kept["chosen"] = json.loads(chosen.read_text(encoding="utf-8"))
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / f"{name}.json"
    file.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    click.echo(f"{file}: {len(results)} runs")


if __name__ == "__main__":
    main()
