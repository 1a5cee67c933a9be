"""The page's tables as plain rows and cells."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from forgetting.report import series
from forgetting.report.groups import BASELINE, Experiment
from forgetting.report.rows import LEVEL, PAIRED
from forgetting.report.rows import summary as summarised
from forgetting.report.table import comparison_note, probability, significant, too_few

Cell = dict[str, Any]
_SUMMARY = {
    "source_before": "source before (%)",
    "source_after": "source after (%)",
    "retention": "retention (%)",
    "adaptation": "adaptation (%)",
    "average_accuracy": "average accuracy (%)",
    "forgetting": "forgetting (points)",
    "negative_flips": "negative flips (%)",
}
_NOTE = ("Mean ± standard error over n seeds. Retention: source accuracy after ÷ before. Adaptation: accuracy on each "
         "new task when learned ÷ plain fine-tuning's with the same seed. Average accuracy: over all tasks at the end. "
         "Forgetting: how far earlier tasks fell from their best. Negative flips: source test examples that were right "
         "and are wrong now. Joint training sees all data at once: a ceiling, no contender.")


def cell(found: Mapping[str, Any] | None, scale: float = 1.0, digits: int = 1) -> Cell:
    """A summary as text."""
    if found is None or found["mean"] is None:
        return {"mean": "–", "error": ""}
    error = "" if found["sem"] is None else f"{scale * found['sem']:.{digits}f}"
    return {"mean": _minus(f"{scale * found['mean']:.{digits}f}"), "error": error}


def summary(rows: list[dict[str, Any]], joint: set[str]) -> dict[str, Any]:
    """Every figure of every method."""
    lines = [{
        "name": row["method"],
        "reference": row["name"] == BASELINE or row["method"] in joint,
        "cells": [{"mean": len(row["seeds"]), "error": ""}, *(cell(row[key], 100.0) for key in _SUMMARY)],
    } for row in rows]
    return {"heads": ["method", "n", *_SUMMARY.values()], "rows": lines, "note": f"{_NOTE}{_reasons(rows)}"}


def paired(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Each method against plain fine-tuning: difference, interval and p-values of three figures."""
    heads = ["method", "n"]
    for figure in PAIRED:
        heads += [f"{figure.replace('_', ' ')}: points more (95 % interval)", "p; Holm"]
    lines = []
    for row in rows:
        if row["paired"]:
            seeds = max(row["paired"][figure]["n"] for figure in PAIRED if row["paired"][figure])
            cells: list[Cell] = [{"text": str(seeds), "mark": ""}]
            for figure in PAIRED:
                cells += _tested(row["paired"][figure])
            lines.append({"name": row["method"], "cells": cells})
    note = ("Differences to plain fine-tuning over common seeds. p: two-sided sign-flip test of the mean difference "
            f"(exact up to 16 seeds); Holm: corrected over methods; * where that is below {LEVEL:g}. Intervals: "
            f"Student's, of the mean difference.{too_few(rows)}") if lines else comparison_note(rows)
    return {"heads": heads, "rows": lines, "note": note}


def norm_statistics(experiment: Experiment, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """What the running statistics of norm layers cost; without rows where the model has none."""
    lines = []
    for row, group in _with_groups(experiment, rows):
        found = series.norm_statistics(group)
        if found is not None:
            share = "–" if found["share"] is None else f"{100 * found['share']:.0f}"
            cells = [cell(found[key], 100.0) for key in ("before", "after", "restored", "gained")]
            lines.append({"name": row["method"], "cells": [*cells, {"mean": share, "error": ""}]})
    return {
        "heads": ["method", "source before (%)", "source after (%)", "after, with the source's norm statistics (%)",
                  "due to the statistics (points)", "share of the loss (%)"],
        "rows": lines,
        "note": "Running means and variances of norm layers are not weights: no penalty sees them. The column before "
                "the last two puts back those that belonged to the source, with the weights as they are at the end. A "
                "negative share: the new weights suit the new statistics better. No share where less than half a point "
                "was lost.",
    }


def cost(experiment: Experiment, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Seconds, memory and how hard the penalty pulled."""
    lines = []
    for row, group in _with_groups(experiment, rows):
        runs = list(group.runs.values())
        plain = group.baseline or {}
        ratios = [run.seconds / plain[run.seed].seconds for run in runs
                  if run.seed in plain and plain[run.seed].seconds > 0]
        lines.append({"name": row["method"], "cells": [
            cell(row["seconds"], digits=2),
            cell(summarised(run.seconds_training for run in runs), digits=2),
            cell(summarised(run.seconds_consolidation for run in runs), digits=2),
            cell(summarised(ratios), digits=2),
            cell(summarised(run.peak_bytes / 2**20 for run in runs if run.peak_bytes)),
            cell(series.pull(group), digits=3),
        ]})
    return {
        "heads": ["method", "seconds", "of them training", "of them consolidation", "÷ plain fine-tuning",
                  "peak memory (MiB)", "pull ÷ task gradient"],
        "rows": lines,
        "note": "Wall-clock seconds of the tasks after the shared pretraining, without testing. Peak memory: on a GPU "
                "of all allocations; on a CPU the growth of the process, – where it did not grow. Pull: the penalty's "
                "gradient norm ÷ the task loss's, median over the measured steps.",
    }


def facts(experiment: Experiment) -> str:
    """Tasks, network, optimizer and seeds in one line."""
    runs = experiment.runs
    tasks, shared = runs[0].tasks, experiment.shared
    shown = " → ".join(tasks if len(tasks) <= 5 else (*tasks[:3], "…", tasks[-1]))
    seeds = sorted({run.seed for run in runs})
    start = "from a pretrained source" if runs[0].pretrained else "from scratch"
    return (f"{len(tasks)} tasks ({shown}), {start}; network {shared.get('network')}, {shared.get('optimizer')}, "
            f"{len(experiment.groups)} methods, {len(seeds)} seed{'s' if len(seeds) > 1 else ''}.")


def _with_groups(experiment: Experiment, rows: list[dict[str, Any]]) -> Iterable[tuple[dict[str, Any], Any]]:
    groups = {group.label: group for group in experiment.groups}
    return [(row, groups[row["method"]]) for row in rows]


def _tested(test: Mapping[str, Any] | None) -> list[Cell]:
    """Difference with interval, and p with corrected p, of one comparison."""
    if test is None:
        return [{"text": "–", "mark": ""}] * 2
    difference = f"{100 * test['difference']:+.1f}"
    if test["interval"] is not None:
        difference += " ({:+.1f} … {:+.1f})".format(*(100 * end for end in test["interval"]))
    p = "; ".join(probability(test[key]) for key in ("sign_flip", "holm"))
    return [{"text": _minus(difference), "mark": ""}, {"text": p, "mark": "*" if significant(test) else ""}]


def _minus(text: str) -> str:
    """A number with the minus sign of print, and none on a zero."""
    return re.sub(r"-(?!0\.0+(?!\d))", "\N{MINUS SIGN}", text).replace("-", "")


def _reasons(rows: list[dict[str, Any]]) -> str:
    """What explains the missing cells."""
    return "".join(f" {row['method']}: {row['reason']}." for row in rows if row["reason"] and row["name"] != BASELINE)
