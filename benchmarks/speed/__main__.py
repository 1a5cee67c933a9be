"""Measure and keep: ``python -m benchmarks.speed``; what the results file holds already is not measured again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click

from benchmarks.speed import plan
from benchmarks.speed.store import RESULTS, Store, environment

LIMIT = 1200  # seconds a process may take
PEAKS = ("forward+backward", "diagonal", "stream")


def child(words: list[str], threads: int) -> dict[str, object]:
    """The entry that a process of its own measures; what it says when it dies."""
    command = [sys.executable, "-m", "benchmarks.speed.child", *words, "--threads", str(threads)]
    surroundings = {**os.environ, "OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=LIMIT, env=surroundings)
    except subprocess.TimeoutExpired:
        return {"status": "crash", "exception": f"no answer within {LIMIT} s"}
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"ended with status {done.returncode}"]
        return {"status": "crash", "exception": lines[-1][:160]}
    return json.loads(done.stdout.strip().splitlines()[-1])


def measured(item: plan.Item, device: str, rounds: int | None, threads: int, folder: str) -> dict[str, object]:
    """The entry of one item; an empirical one has its peaks from processes of their own."""
    options = ["--device", device, "--folder", folder, *(["--rounds", str(rounds)] if rounds else [])]
    entry = child([word for word in (item.part, item.row, item.what) if word] + options, threads)
    if item.part == "empirical" and "exception" not in entry:
        entry["peaks"] = {what: child(["peaks", item.row, what, *options], threads) for what in PEAKS}
    return entry


def summary(entry: dict[str, object]) -> str:
    """A line for the terminal."""
    if "exception" in entry:
        return f"{entry['status']}: {entry['exception']}"
    words = [str(entry["status"])] if "status" in entry else []
    if "median" in (entry.get("time") or {}):
        words.append("time {median:.3f} [{lower:.3f}, {upper:.3f}]".format(**entry["time"]))
    if isinstance(entry.get("error"), dict):
        words.append("error {whole:.1e}, worst tensor {worst:.1e}".format(**entry["error"]))
    for tolerance, found in (entry.get("tolerances") or {}).items():
        words.append(f"tolerance {tolerance}: time {found['time']['median']:.2f}, error {found['error']['whole']:.1e}")
    return "; ".join(words) or "kept"


@click.command()
@click.option("--rows", help="names, with commas between; default: every row")
@click.option("--parts", help=f"of {', '.join(plan.OURS + plan.OTHERS)}; default: the first five")
@click.option("--peers", is_flag=True, help="the peers' parts too")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.option("--rounds", type=int, help="instead of each row's own number")
@click.option("--threads", default=2, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="default: benchmarks/speed/results/DEVICE.json")
@click.option("--again", is_flag=True, help="measure anew what the file has")
@click.option("--fresh", is_flag=True, help="start the file over")
@click.option("--dry-run", is_flag=True, help="say what would run")
def main(rows: str | None, parts: str | None, peers: bool, device: str, rounds: int | None, threads: int,
         out: Path | None, again: bool, fresh: bool, dry_run: bool) -> None:
    """Measure speed, memory and error as ratios to a plain forward and backward pass."""
    wanted = parts.split(",") if parts else [*plan.OURS, *(plan.OTHERS if peers else ())]
    items = plan.items(device, wanted, rows.split(",") if rows else None)
    if dry_run:
        for item in items:
            click.echo(item.key + (f"   (needs {', '.join(item.missing)})" if item.missing else ""))
        click.echo(f"{len(items)} measurements on {device}")
        return
    store = Store(out or RESULTS / f"{device}.json", environment(device, threads), fresh)
    with tempfile.TemporaryDirectory() as folder:
        for item in items:
            if item.missing:
                click.echo(f"{item.key}: left out, {', '.join(item.missing)} is not installed")
            elif item.key in store.entries and not again:
                click.echo(f"{item.key}: kept from before")
            else:
                start = time.monotonic()
                entry = measured(item, device, rounds, threads, folder)
                store.add(item.key, entry)
                click.echo(f"{item.key}: {summary(entry)}   ({time.monotonic() - start:.0f} s)")


if __name__ == "__main__":
    main()
