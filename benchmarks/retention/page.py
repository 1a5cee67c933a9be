"""The tables of docs/retention.md: ``python -m benchmarks.retention.page``; ``--check`` only compares."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from scipy import stats

from benchmarks import pages
from benchmarks.retention.record import RESULTS
from forgetting.protocol import statistics

STUDIES = {"vision": "efficientnet-lite0-targets-cpu", "text": "minilm-targets-cpu"}
HEADS = ("method", "source at the end", "more than fine-tuning", "p after Holm", "adaptation", "average accuracy",
         "time")
LEVEL = 0.95


def study(kind: str) -> dict[str, Any] | None:
    """A study's results file; None where it was not run."""
    file = RESULTS / f"{STUDIES[kind]}.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else None


def methods(kind: str) -> str:
    """One row a method, and what plain fine-tuning loses."""
    found = study(kind)
    if found is None:
        return ""
    rows = sorted(found["table"],
                  key=lambda row: (not row["name"].startswith("finetune"), -row["source_after"]["mean"]))
    plain = next(row for row in rows if row["name"] == "finetune")
    lines = [line(HEADS), "|---" * len(HEADS) + "|"]
    corrected = statistics.holm({row["name"]: p_value(row["paired"]["retention"]) for row in rows if row["paired"]})
    for row in rows:
        paired = row["paired"] and row["paired"]["retention"]
        more = "–" if not paired else f"{points(paired['difference'])} ({between(paired['interval'], points)})"
        told = f"{corrected[row['name']]:.2g}" if paired else "–"
        lines.append(line((name(row), figure(row["source_after"]), more, told, figure(row["adaptation"], most=math.inf),
                           figure(row["average_accuracy"]),
                           f"{row['seconds']['mean'] / plain['seconds']['mean']:.1f} ×")))
    lines += ["", *lost(rows), f"Made by {environment(found)}"]
    return "\n".join(lines) + "\n"


def p_value(paired: Mapping[str, Any]) -> float:
    """Of Student's paired test, as from its interval."""
    difference, (low, high), n = paired["difference"], paired["interval"], paired["n"]
    error = (high - low) / 2 / stats.t.ppf((1 + LEVEL) / 2, n - 1)
    return float(2 * stats.t.sf(abs(difference) / error, n - 1))


def lost(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What fine-tuning loses of the source, with norm statistics still and moving."""
    words = {"finetune": "norm statistics still", "finetune-moving": "norm statistics moving"}
    return [f"Plain fine-tuning, {words[row['name']]}: the source falls by "
            f"{100 * (row['source_before']['mean'] - row['source_after']['mean']):.1f} points, from "
            f"{100 * row['source_before']['mean']:.1f} to {100 * row['source_after']['mean']:.1f} % "
            f"({row['source_after']['n']} seeds).\n" for row in rows if row["name"] in words]


def language() -> str:
    """One row a run of a language model: perplexities, divergence, seconds and memory; the model as it was first."""
    file = RESULTS / "smollm2-135m-cpu.json"
    if not file.exists():
        return ""
    runs = json.loads(file.read_text(encoding="utf-8"))["runs"]
    heads = ("method", "WikiText-2", "Shakespeare", "KL from before", "training, s", "peak memory", "consolidation, s",
             "peak memory")
    rows = [("as it was", runs[0]["before"], "–", "–", "–", "–")]
    for run in runs:
        about, took = run["settings"], run["consolidation"]
        shown = f" (strength {about['strength']:g})" if about["strength"] else ""
        rows.append((f"{about['method']}{shown}, seed {about['seed']}", run["after"], f"{run['seconds']:.0f}",
                     f"{run['peak_bytes'] / 1e9:.1f} GB", *(("–", "–") if took is None else (
                         f"{took['seconds']:.0f}", f"{took['peak_bytes'] / 1e9:.1f} GB"))))
    lines = [line(heads), "|---" * len(heads) + "|"]
    lines += [line((named, f"{found['source']:.2f}", f"{found['target']:.2f}", f"{found['divergence']:.3f}", *costs))
              for named, found, *costs in rows]
    about = runs[0]["settings"]
    return "\n".join(lines) + (f"\n\n{about['steps']} steps of {about['batch']} × {about['length']} tokens, AdamW at "
                               f"{about['rate']:g}; {about['tested']:,} tokens of each text to test on.\n")


def tried(kind: str) -> str:
    """Every candidate with its figure on validation data."""
    found = (study(kind) or {}).get("chosen")
    if not found:
        return ""
    heads = ("what", "candidates and their figure", "chosen")
    lines = [line(heads), "|---" * len(heads) + "|"]
    for what, table in found["candidates"].items():
        chosen = found["rate"] if what == "rate" else found["settings"][what]
        varied = varying([entry["candidate"] for entry in table])
        cells = "; ".join(f"{value(entry['candidate'], varied)}: {100 * entry['score']:.1f}" for entry in table)
        lines.append(line((f"{what}, {varied}" if varied else "fine-tuning, rate", cells, value(chosen, varied))))
    return "\n".join(lines) + "\n"


def varying(candidates: Sequence[Any]) -> str:
    """The setting that differs between candidates; empty where they are plain values."""
    first = candidates[0]
    keys = first if isinstance(first, dict) else ()
    return ", ".join(key for key in keys if any(other[key] != first[key] for other in candidates))


def value(candidate: Any, varied: str) -> str:
    """A candidate by what varies."""
    return ", ".join(f"{candidate[key]:g}" for key in varied.split(", ")) if varied else f"{candidate:g}"


def environment(found: Mapping[str, Any]) -> str:
    """Where the runs were made, and how long they took."""
    about, runs = found["environment"], found["runs"]
    versions = ", ".join(f"{package} {version}" for package, version in about["versions"].items())
    return (f"{len(runs)} runs of {sum(run['seconds'] for run in runs) / len(runs):.0f} s on average (training and "
            f"consolidation) on {about['device']}, {about['threads']} thread{'s' * (about['threads'] > 1)} a run; "
            f"{versions}.")


def name(row: Mapping[str, Any]) -> str:
    """A method with a link to its card."""
    linked = row["name"].removesuffix("-moving")
    return f"[{row['name']}](methods/{linked}.md)"


def figure(summary: Mapping[str, Any] | None, most: float = 1.0) -> str:
    """Mean and Student's 95 % interval, in %, cut off at 0 and at the most that there can be."""
    if summary is None:
        return "–"
    if not summary["sem"]:
        return f"{100 * summary['mean']:.1f}"
    half = stats.t.ppf((1 + LEVEL) / 2, summary["n"] - 1) * summary["sem"]
    ends = (summary["mean"] - half, summary["mean"] + half)
    return f"{100 * summary['mean']:.1f} ({between(ends, lambda end: f'{100 * min(max(end, 0), most):.1f}')})"


def between(ends: Sequence[float], shown: Callable[[float], str]) -> str:
    """An interval."""
    return " to ".join(shown(end) for end in ends)


def points(difference: float) -> str:
    """A difference in points, with its sign."""
    return f"{100 * difference:+.1f}".replace("-", "\N{MINUS SIGN}")


def line(cells: Sequence[str]) -> str:
    """A row of a table."""
    return f"| {' | '.join(cells)} |"


PAGES = (pages.DOCS / "retention.md",)
TABLES: dict[str, Callable[[], str]] = {
    **{f"{kind}-methods": functools.partial(methods, kind) for kind in STUDIES},
    "language-methods": language,
    **{f"{kind}-chosen": functools.partial(tried, kind) for kind in STUDIES},
}
main = pages.command(PAGES, TABLES, "Write the tables of docs/retention.md from the results files.")

if __name__ == "__main__":
    main()
