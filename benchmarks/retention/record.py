"""Keep a directory of runs as one committed file: ``python -m benchmarks.retention.record DIR NAME``.

``benchmarks/retention/results/NAME.json`` then holds the table of ``forgetting run --json``, the recipe of each method,
the accuracy matrix of every run, where and with what they were made, and what a study chose before them
(``chosen.json`` beside the directory; runs with settings that an earlier choice took are left out). The picture of
retention against adaptation goes to ``docs/pictures/NAME.png``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from benchmarks.pages import DOCS
from forgetting import report
from forgetting.protocol import Result, Store

RESULTS = Path(__file__).with_name("results")


@click.command()
@click.argument("directory", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.argument("name")
def main(directory: Path, name: str) -> None:
    """Write what DIRECTORY holds into the file of that NAME."""
    results = sorted(Store(directory, create=False).results(), key=lambda result: (result.method, result.seed))
    file = directory.parent / "chosen.json"
    chosen = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    results = [result for result in results if as_chosen(result, chosen)]
    kept = {
        "environment": {key: results[0].provenance[key] for key in ("versions", "platform", "threads", "device")},
        "table": report.rows(results),
        "runs": [{"method": result.method, "seed": result.seed, "data": result.provenance["data"],
                  "recipe": result.recipe, "accuracy": result.accuracy.tolist(), "seconds": result.seconds,
                  "peak_bytes": result.peak_bytes} for result in results],
    }
    if chosen:
        kept["chosen"] = chosen
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / f"{name}.json"
    file.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    report.save_picture(results, DOCS / "pictures" / f"{name}.png")
    click.echo(f"{file}: {len(results)} runs")


def as_chosen(result: Result, chosen: dict[str, Any]) -> bool:
    """Whether a run has the rate and the settings that were chosen for its method, where any were."""
    wanted = chosen.get("settings", {}).get(result.method, {})
    about = result.recipe["method"]
    own = {**about, **about["settings"]}
    return (chosen.get("rate", result.recipe["rate"]) == result.recipe["rate"]
            and all(own.get(name) == value for name, value in wanted.items()))


if __name__ == "__main__":
    main()
