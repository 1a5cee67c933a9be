"""Tables and pictures of docs/transfer.md: ``python -m benchmarks.retention.transfer_page``; ``--check`` compares."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from typing import Any

import click

from benchmarks import pages
from benchmarks.retention.page import environment, line, points
from benchmarks.retention.record import RESULTS
from forgetting import transfer
from forgetting.transfer import Estimate, Saved, Study, Time

STUDIES = ("efficientnet-cifar10", "mlp-shuffled")
ARMS = ("finetune", "scratch", "linear-probe")
ACCURACY = ("labels", "finetune", "scratch", "linear-probe", "finetune − scratch", "verdict", "finetune − probe",
            "labels that scratch needs")
TIMES = ("labels", *(f"{arm}: steps, seconds" for arm in ARMS))


def study(name: str) -> dict[str, Any] | None:
    """A study's results file; None where it was not run."""
    file = RESULTS / f"transfer-{name}.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else None


def accuracies(content: Mapping[str, Any] | None) -> str:
    """One row a share: the arms, what fine-tuning has more, and how many labels that is worth."""
    if content is None:
        return ""
    found = Study.from_data(content)
    lines = [line(ACCURACY), "|---" * len(ACCURACY) + "|"]
    for share in found.shares:
        gained = transfer.difference(found.runs, share)
        beside = transfer.difference(found.runs, share, other="linear-probe")
        cells = [labels(found, share), *(figure(transfer.accuracy(found.runs, arm, share)) for arm in ARMS),
                 more(gained.estimate), gained.verdict, f"{more(beside.estimate)}, {beside.verdict}"]
        said = needed(transfer.labels_saved(found.runs, share)) if len(found.shares) > 1 else "–"
        lines.append(line((*cells, f"({said})" if gained.verdict.startswith("not decided") else said)))
    return "\n".join([*lines, "", judged(found), "", f"Made by {environment(content)}"]) + "\n"


def judged(found: Study) -> str:
    """At which shares transfer pays, and at which not, in one sentence."""
    shares: dict[str, list[str]] = {}
    for share in found.shares:
        shares.setdefault(transfer.difference(found.runs, share).verdict, []).append(f"{100 * share:g}")
    said = "; ".join(f"{verdict} at {', '.join(some)} %" for verdict, some in shares.items())
    return f"**{said[0].upper()}{said[1:]} of the labels**, after {found.budget.steps} steps."


def times(content: Mapping[str, Any] | None) -> str:
    """One row a share: how long each arm takes to the level."""
    if content is None:
        return ""
    found, level = Study.from_data(content), content["about"]["level"]
    lines = [line(TIMES), "|---" * len(TIMES) + "|"]
    for share in found.shares:
        cells = [taken(transfer.time_to(found.runs, level, arm, share)) for arm in ARMS]
        lines.append(line((labels(found, share), *cells)))
    said = (f"To {100 * level:.0f} % on validation data, measured every {found.budget.every} steps of "
            f"{found.budget.steps}; medians over seeds.")
    return "\n".join([*lines, "", said]) + "\n"


def rates(content: Mapping[str, Any] | None) -> str:
    """Which rate validation chose, and every candidate's figure."""
    if content is None:
        return ""
    heads = ("arm", "labels", "rates and their validation accuracy", "chosen")
    lines = [line(heads), "|---" * len(heads) + "|"]
    found = Study.from_data(content)
    for choice in found.chosen:
        tried = "; ".join(f"{rate:g}: {'diverged' if score < 0 else f'{100 * score:.1f}'}"
                          for rate, score in choice.scores.items())
        edge = " (last of its range)" if choice.at_the_edge else ""
        lines.append(line((choice.arm, f"{100 * choice.share:g} %", tried, f"{choice.rate:g}{edge}")))
    return "\n".join(lines) + "\n"


def summary(content: Mapping[str, Any]) -> str:
    """All tables, for the terminal."""
    return "\n".join((accuracies(content), times(content), rates(content)))


def labels(found: Study, share: float) -> str:
    """A share and how many examples it is."""
    count = next(run.labels for run in found.runs if run.share == share)
    return f"{100 * share:g} % ({count})"


def figure(estimate: Estimate) -> str:
    """Mean and interval in %."""
    if estimate.low is None or estimate.high is None:
        return f"{100 * estimate.mean:.1f}"
    low, high = (100 * min(max(end, 0.0), 1.0) for end in (estimate.low, estimate.high))
    return f"{100 * estimate.mean:.1f} ({low:.1f} to {high:.1f})"


def more(estimate: Estimate) -> str:
    """A difference and its interval in points."""
    if estimate.low is None or estimate.high is None:
        return points(estimate.mean)
    return f"{points(estimate.mean)} ({points(estimate.low)} to {points(estimate.high)})"


def needed(saved: Saved) -> str:
    """How many labels scratch needs."""
    if saved.needed is None or saved.factor is None:
        return saved.reason or ""
    return f"{saved.needed:.0f}, {saved.factor:.2g} times as many"


def taken(time: Time) -> str:
    """Steps and seconds; in how many seeds it is not reached."""
    if time.steps is None or time.seconds is None:
        return f"not reached ({time.reached} of {time.n} seeds do)"
    short = "" if time.reached == time.n else f" ({time.reached} of {time.n} seeds)"
    return f"{time.steps:g}, {time.seconds:.2g} s{short}"


def draw(content: Mapping[str, Any], name: str) -> None:
    """Both pictures of a study."""
    from forgetting.report.plots import look, write
    from forgetting.transfer import figures

    found, folder = Study.from_data(content), pages.DOCS / "pictures"
    with look():
        write(figures.over_labels(found), folder / f"transfer-{name}.png")
        write(figures.over_steps(found, content["about"]["level"]), folder / f"transfer-steps-{name}.png")


def _of(table: Callable[[Mapping[str, Any] | None], str], name: str) -> str:
    return table(study(name))


PAGES = (pages.DOCS / "transfer.md",)
TABLES: dict[str, Callable[[], str]] = {
    f"{kind}-{name}": functools.partial(_of, table, name)
    for name in STUDIES for kind, table in (("accuracy", accuracies), ("time", times), ("rates", rates))}


@click.command()
@click.option("--check", is_flag=True, help="fail where the page is not what the results say")
@click.pass_context
def main(context: click.Context, check: bool) -> None:
    """Write the tables and pictures of docs/transfer.md from the results files."""
    context.invoke(pages.command(PAGES, TABLES, ""), check=check)
    for name in () if check else STUDIES:
        content = study(name)
        if content is not None:
            draw(content, name)


if __name__ == "__main__":
    main()
