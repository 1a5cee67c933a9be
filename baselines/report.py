"""The reproduction tables, from the committed results and ``targets.toml``: ``python -m baselines report``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from functools import cache, partial

import click

from baselines.targets import Published, Target, published
from baselines.verdicts import FOLDER, MET, MISSED, OPEN, Measured, Verdict, of_claim, of_target
from benchmarks import pages
from benchmarks.speed import beside_avalanche as beside
from benchmarks.speed.store import read
from forgetting.report import Publication
from forgetting.report import Published as Figure

PAGES = (FOLDER.parent / "README.md", pages.DOCS / "reproduction.md", pages.DOCS / "integrations" / "avalanche.md",
         FOLDER / "README.md")
AVALANCHE = ("avalanche-permuted-mnist", "avalanche-split-mnist")
ALLOWED = 0.2  # of the rows of these tables may be misses
COUNTED = ("vandeven-2025-split-mnist", "hsu-2018-split-mnist", "buzzega-2020-permuted-mnist", *AVALANCHE)


@cache
def tables() -> dict[str, Published]:
    """What was published."""
    return published()


@cache
def measured(baseline: str, row: str) -> Measured | None:
    """What was measured of a row."""
    return Measured.of(baseline, row)


def figured(about: Published) -> list[Target]:
    """The rows that have a published figure."""
    return [target for target in about.targets if target.mean is not None]


def verdicts(about: Published) -> list[Verdict]:
    """One a published figure and one a statement."""
    return [*(of_target(about, target, measured(about.name, target.row)) for target in figured(about)),
            *(of_claim(claim, [measured(about.name, row) for row in claim.rows]) for claim in about.claims)]


def overview() -> str:
    """How many figures of each table were met, missed and left open."""
    lines = [_line(("published", "figures", MET, MISSED, OPEN)), "|---" * 5 + "|"]
    total: Counter[str] = Counter()
    for about in tables().values():
        found = Counter(verdict.sign for verdict in verdicts(about))
        total += found
        lines.append(_line((f"{about.title} ({about.source})", found.total(), found[MET], found[MISSED], found[OPEN])))
    lines.append(_line(("all", total.total(), total[MET], total[MISSED], total[OPEN])))
    return "\n".join(lines) + "\n"


def figures(about: Published) -> str:
    """A table's figures, published and ours."""
    lines = [_line(("row", "published", "ours", "seeds", "gap", "", "criterion", "strength", "seconds a run")),
             "|---" * 9 + "|"]
    for target in about.targets:
        found = measured(about.name, target.row)
        verdict = of_target(about, target, found)
        ours = ("–", "–", "–", "–") if found is None else (
            _spread(found.summary.mean, found.summary.sem), str(found.summary.n),
            "" if found.kept["strength"] is None else f"{found.kept['strength']:g}", f"{found.seconds:.0f}")
        lines.append(_line((target.row, _printed(target), *ours[:2], _gap(verdict.gap), verdict.sign, verdict.about,
                            *ours[2:])))
    theirs = f"± there is the {about.spread} over" if about.spread else "mean of"
    notes = [f"{about.source}; {theirs} {about.n} runs, ours ± standard error; percent."]
    notes += [f"{verdict.sign} {claim.text}: {verdict.about}." for claim, verdict in
              zip(about.claims, verdicts(about)[len(figured(about)) :], strict=True)]
    notes += [f"{target.row}: {target.missed}" for target in about.targets if target.missed]
    notes += [f"{claim.text}: {claim.missed}" for claim in about.claims if claim.missed]
    return "\n".join(lines) + "\n\n" + "\n".join(f"- {note}" for note in notes) + "\n"


def publication(about: Published) -> Publication:
    """A table's figures and statements, for a page."""
    said = [of_target(about, target, measured(about.name, target.row)) for target in about.targets]
    lines = [Figure(target.row, _printed(target), _ours(about, target), verdict.sign, verdict.about,
                    verdict.missed or "") for target, verdict in zip(about.targets, said, strict=True)]
    claims = zip(about.claims, verdicts(about)[len(figured(about)) :], strict=True)
    lines += [Figure(claim.text, "", "", verdict.sign, verdict.about, verdict.missed or "")
              for claim, verdict in claims]
    theirs = f"; ± there is the {about.spread} of {about.n} runs, ours ± standard error" if about.spread else ""
    return Publication(about.title, f"{about.source}{theirs}", lines)


def _printed(target: Target) -> str:
    """A published figure as its source prints it."""
    if target.mean is None:
        return "–"
    return _spread(target.mean, target.spread) + ("" if target.verified else " (not verified)")


def _ours(about: Published, target: Target) -> str:
    found = measured(about.name, target.row)
    return "–" if found is None else _spread(found.summary.mean, found.summary.sem)


def faults() -> list[str]:
    """What a reader must not be left alone with: a miss without its cause, a cause without a miss, too many misses."""
    found, signs = [], []
    for about in tables().values():
        named: list[tuple[str, Verdict]] = list(zip(
            [*(target.row for target in figured(about)), *(claim.text for claim in about.claims)], verdicts(about),
            strict=True))
        if about.name in COUNTED:
            signs += [verdict.sign for _, verdict in named[: len(figured(about))]]
        for name, verdict in named:
            if verdict.sign == MISSED and not verdict.missed:
                found.append(f"{about.name}, {name}: missed ({verdict.about}), and targets.toml does not say why")
            if verdict.sign == MET and verdict.missed:
                found.append(f"{about.name}, {name}: met, though targets.toml says why it is missed: {verdict.missed}")
    known = [sign for sign in signs if sign != OPEN]
    if known.count(MISSED) > ALLOWED * len(known):
        found.append(f"{known.count(MISSED)} of {len(known)} rows are misses, more than {ALLOWED:.0%}")
    return found


def avalanche() -> str:
    """Avalanche's own baselines in few columns: its figure, ours, seconds."""
    lines = [_line(("protocol", "theirs", "ours", "seconds a run")), "|---" * 4 + "|"]
    for name in AVALANCHE:
        about = tables()[name]
        lines += [_line((f"{about.title}: {target.row}", f"{target.mean:.0f}",
                         _spread(found.summary.mean, found.summary.sem), f"{found.seconds:.0f}"))
                  for target in figured(about) if (found := measured(name, target.row)) is not None]
    return "\n".join(lines) + "\n" if len(lines) > 2 else ""


def beside_avalanche() -> str:
    """The same EWC run by both libraries."""
    file = beside.RESULTS / "beside-avalanche-cpu.json"
    return "".join(map(beside.table, read(file)["entries"].values())) if file.exists() else ""


def made() -> dict[str, Callable[[], str]]:
    """Every table by its name on a page."""
    return {"reproduction": overview, "avalanche": avalanche, "beside-avalanche": beside_avalanche,
            **{name: partial(figures, about) for name, about in tables().items()}}


@click.command()
@click.option("--check", is_flag=True, help="only compare: fail where a page is stale or a miss has no cause")
def report(check: bool) -> None:
    """Write the tables of README, docs and the baselines' pages from their results and targets.toml."""
    listed = [*PAGES, *(FOLDER / name.replace("-", "_") / "README.md" for name in tables())]
    old, wrong = pages.stale(listed, made()), faults()
    if check and (old or wrong):
        stale = [f"{page.relative_to(FOLDER.parent)}: not what the results say; make it anew" for page in old]
        raise click.ClickException("\n".join([*wrong, *stale]))
    for page in old:
        page.write_text(pages.rendered(page, made()), encoding="utf-8")
        click.echo(f"{page.relative_to(FOLDER.parent)} written")
    signs = Counter(verdict.sign for about in tables().values() for verdict in verdicts(about))
    click.echo("\n".join(wrong) or f"{signs[MET]} within their criterion, {signs[MISSED]} outside, with their cause, "
               f"{signs[OPEN]} without a verdict; every page says what the results say")


def _line(cells: Iterable[object]) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def _spread(mean: float, spread: float | None) -> str:
    return f"{mean:.2f}" if spread is None else f"{mean:.2f} ± {spread:.2f}"


def _gap(gap: float | None) -> str:
    return "" if gap is None else f"{gap:+.2f}".replace("-", "\N{MINUS SIGN}")
