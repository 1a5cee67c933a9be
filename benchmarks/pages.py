"""Pages whose tables are made from results files, each between ``<!-- table: NAME -->`` and ``<!-- end -->``."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import click

DOCS = Path(__file__).parents[1] / "docs"
MARKED = re.compile(r"(<!-- table: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
UNMEASURED = "*Not measured yet.*\n"

Tables = Mapping[str, Callable[[], str]]


def names(page: Path) -> set[str]:
    """The tables of a page."""
    return {found[2] for found in MARKED.finditer(page.read_text(encoding="utf-8"))}


def rendered(page: Path, tables: Tables) -> str:
    """A page with its tables made anew."""
    return MARKED.sub(lambda found: found[1] + (tables[found[2]]() or UNMEASURED) + found[3],
                      page.read_text(encoding="utf-8"))


def stale(pages: Sequence[Path], tables: Tables) -> list[Path]:
    """The pages that are not what the results say."""
    return [page for page in pages if rendered(page, tables) != page.read_text(encoding="utf-8")]


def command(pages: Sequence[Path], tables: Tables, text: str) -> click.Command:
    """The command that writes these pages' tables, or with ``--check`` only compares."""

    @click.command(help=text)
    @click.option("--check", is_flag=True, help="fail where a page is not what the results say")
    def main(check: bool) -> None:
        old = stale(pages, tables)
        if check and old:
            raise click.ClickException(f"not what the results say: {', '.join(map(str, old))}; make them anew")
        for page in old:
            page.write_text(rendered(page, tables), encoding="utf-8")
            click.echo(f"{page.relative_to(DOCS.parent)} written")

    return main
