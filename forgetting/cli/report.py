"""``forgetting list`` and ``forgetting report``: what has a name, and what was measured."""

from __future__ import annotations

from pathlib import Path

import click
from rich.table import Table

from forgetting import methods, report, tasks
from forgetting.cli.console import console
from forgetting.protocol import Store
from forgetting.tasks.given import GIVEN, NEEDS, kind_of


@click.command("list")
@click.argument("what", type=click.Choice(["methods", "sequences"]), required=False)
def list_(what: str | None) -> None:
    """List the methods and the task sequences that have names."""
    if what in (None, "methods"):
        table = Table("method", "what it does", title="methods", title_justify="left", box=None)
        for name in methods.names():
            table.add_row(name, methods.describe(name))
        console.print(table)
    if what in (None, "sequences"):
        table = Table("sequence", "what it is", title="sequences", title_justify="left", box=None)
        for name in tasks.names():
            about = tasks.describe(name)
            start = "pretrained" if about.pretrained else "from scratch"
            table.add_row(name, f"{about.text} ({start}; {', '.join(about.scenarios)}-incremental)")
        for name, about in GIVEN.items():
            table.add_row(name, f"{about.text} (needs --network: {NEEDS[kind_of(name)]}; {about.scenario}-incremental)")
        console.print(table)


@click.command("report")
@click.argument("directory", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--out", type=click.Path(path_type=Path), help="the page's file; default: report.html in DIRECTORY")
@click.option("--similarity", is_flag=True,
              help="measure how far apart the tasks were before training, and set it beside the forgetting")
def report_(directory: Path, out: Path | None, similarity: bool) -> None:
    """Write ONE self-contained HTML page about every finished run in DIRECTORY.

    What was lost of the source, and where, it says of runs that were made with --diagnose. --similarity keeps its
    figures in DIRECTORY and does not measure twice.
    """
    store = Store(directory, create=False)
    results = store.results()
    if not results:
        raise click.ClickException(f"{directory} holds no finished run; make some with: forgetting run … --out DIR")
    page = out or directory / "report.html"
    report.page(results, page, similarities=report.similarities(store) if similarity else None)
    console.print(report.table(results))
    console.print(f"[bold]{page}[/bold] shows {len(results)} runs: open it in a browser")
