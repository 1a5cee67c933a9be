"""The tables of docs/results.md, docs/choose.md and the cards: ``python -m benchmarks.retention.table``.

``--check`` only compares; a test holds the pages equal to the files in ``benchmarks/retention/results`` and to
``forgetting/chosen.json``.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Collection, Iterable
from typing import Any

from benchmarks import pages
from benchmarks.retention.record import RESULTS
from forgetting import methods

SEQUENCES = {"split-mnist": "split MNIST", "digits-transfer": "digits"}
TELLING = {"split-mnist": ("average_accuracy", "adaptation"),
           "digits-transfer": ("retention", "adaptation", "average_accuracy")}
SHARES = "replay-shares-cpu"
CARDS = pages.DOCS / "methods"
SITUATIONS: dict[str, tuple[str, ...]] = {
    "none": ("small-rate", "l2sp", "wise-ft", "sfa", "ema", "lwf", "kl", "feature-l2", "lora"),
    "sample": ("ewc", "ewc-dr", "mas", "fisher-freezing", "fisher-merging", "lora-ewc", "proxy-replay"),
    "watched": ("si", "rwalk"),
    "kept": ("replay", "der", "derpp", "agem"),
    "frozen": ("freeze", "linear-probe", "lp-ft", "gradual-unfreezing", "fisher-freezing", "layerwise-decay"),
    "target": ("mixout", "delta", "batch-spectral-shrinkage", "slanted-triangular", "warmup-stable-decay", "rewarm",
               "cosine"),
}
_AIM = re.compile(r"\*\*Aims at\*\* (retention|the target|both)")


def aim(name: str) -> str:
    """What a method's card says that it aims at."""
    found = _AIM.search((CARDS / f"{name}.md").read_text(encoding="utf-8"))
    if found is None:
        raise ValueError(f"the card of {name} does not say **Aims at** retention, the target or both")
    return found[1]


def rows(sequence: str) -> list[dict[str, Any]]:
    """The rows of every method on a sequence; none where it was not run."""
    return kept(f"all-{sequence}-cpu")


def kept(name: str) -> list[dict[str, Any]]:
    """The rows of a results file; none where there is none."""
    file = RESULTS / f"{name}.json"
    return json.loads(file.read_text(encoding="utf-8"))["table"] if file.exists() else []


def whole(sequence: str) -> str:
    """Every method on one sequence, and how many of those that aim at retention keep more."""
    found = rows(sequence)
    if not found:
        return ""
    baseline = next(row for row in found if row["name"] == "finetune")
    heads = ("method", "aims at", "retention", "more than fine-tuning", "at least", "adaptation", "average accuracy",
             "time")
    lines = [_line(heads), "|---" * len(heads) + "|"]
    for row in found:
        test = row["paired"] and row["paired"]["retention"]
        against = [_points(test[key]) for key in ("difference", "lower")] if test else ["–", "–"]
        lines.append(_line((_link(row["name"]), aim(row["name"]), _percent(row["retention"]), *against,
                            _percent(row["adaptation"]), _percent(row["average_accuracy"]),
                            f"{row['seconds']['mean'] / baseline['seconds']['mean']:.1f} ×")))
    bounds = {row["name"]: row["paired"]["retention"]["lower"] for row in found
              if row["paired"] and aim(row["name"]) != "the target"}
    below = [name for name, bound in bounds.items() if bound <= -0.01]
    more = sum(bound > 0 for bound in bounds.values())
    none = len(bounds) - len(below)
    lines += ["", f"Of the {len(bounds)} methods that aim at retention or at both, {more} keep more than plain "
                  f"fine-tuning (bound above 0), and {none} do not keep a point less (bound above \N{MINUS SIGN}1)"
              + (f"; not so: {', '.join(below)}." if below else ".")]
    all_seeds = len(baseline["seeds"])
    lines += [f"{row['name']} diverged on {all_seeds - len(row['seeds'])} of {all_seeds} seeds, which are left out."
              for row in found if len(row["seeds"]) < all_seeds]
    return "\n".join(lines) + "\n"


def situation(names: Collection[str]) -> str:
    """What some methods keep and how they adapt, on every sequence, between plain and joint training.

    The source of split MNIST is kept by almost all; there the average over its tasks tells more.
    """
    found = {sequence: {row["name"]: row for row in rows(sequence)} for sequence in SEQUENCES}
    if not all(found.values()):
        return ""
    columns = [(sequence, figure) for sequence in SEQUENCES for figure in TELLING[sequence]]
    heads = ["method", *(f"{SEQUENCES[sequence]}: {figure.replace('_', ' ')}" for sequence, figure in columns)]
    lines = [_line(heads), "|---" * len(heads) + "|"]
    for name in ("finetune", *names, "joint"):
        cells = [_percent(found[sequence][name][figure]) for sequence, figure in columns]
        lines.append(_line((_link(name), *cells)))
    return "\n".join(lines) + "\n"


def plain(name: str) -> str:
    """A results file as it is, a row a method; one method's settings by their share."""
    found = sorted(kept(name), key=lambda row: row["settings"].get("share", 0.0) if name == SHARES else 0.0)
    if not found:
        return ""
    figures = ("retention", "adaptation", "average_accuracy")
    lines = [_line(("method", "retention", "adaptation", "average accuracy")), "|---" * 4 + "|"]
    lines += [_line((row["method"], *(_percent(row[figure]) for figure in figures))) for row in found]
    return "\n".join(lines) + "\n"


def chosen(name: str) -> str:
    """The settings of a method that were chosen, a sequence."""
    parts = []
    for sequence in SEQUENCES:
        suggested = methods.suggested(sequence)
        settings = suggested["methods"].get(name)
        if settings is None:
            continue
        scores = {entry["mean"] for entry in suggested["provenance"]["candidates"][name]}
        words = ", ".join(f"`{key}={value:g}`" for key, value in settings.items())
        parts.append(f"{words} on {sequence}{' (no candidate differs)' if len(scores) == 1 else ''}")
    if not parts:
        return ""
    return f"**Chosen on validation data.** {'; '.join(parts)}; what came of it: [results](../results.md).\n"


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _link(name: str) -> str:
    return f"[{name}](methods/{name}.md)"


def _points(difference: float) -> str:
    return f"{100 * difference:+.1f}".replace("-", "\N{MINUS SIGN}")


def _percent(summary: dict[str, Any] | None) -> str:
    return "–" if summary is None else f"{100 * summary['mean']:.1f} ± {100 * summary['sem']:.1f}"


TABLES: dict[str, Callable[[], str]] = {
    **{sequence: functools.partial(whole, sequence) for sequence in SEQUENCES},
    **{f"for-{key}": functools.partial(situation, names) for key, names in SITUATIONS.items()},
    "class-incremental": functools.partial(plain, "split-mnist-class-cpu"),
    "shares": functools.partial(plain, SHARES),
    "norm-statistics": functools.partial(plain, "norm-statistics-cpu"),
    **{f"chosen-{name}": functools.partial(chosen, name) for name in methods.names()},
}
PAGES = (pages.DOCS / "results.md", pages.DOCS / "choose.md", *(CARDS / f"{name}.md" for name in methods.names()))
main = pages.command(PAGES, TABLES, "Write the tables of the results, of the choice among methods, of the cards.")

if __name__ == "__main__":
    main()
