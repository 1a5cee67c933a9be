"""``forgetting list`` and ``forgetting report``: what has a name, and what was measured."""

from __future__ import annotations

from pathlib import Path

import click
from rich.table import Table

from forgetting import methods, report, tasks
from forgetting.cli.console import console
from forgetting.protocol import Store


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
        console.print(table)


@click.command("report")
@click.argument("directory", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--out", type=click.Path(path_type=Path), help="the page's file; default: report.html in DIRECTORY")
def report_(directory: Path, out: Path | None) -> None:
    """Write ONE self-contained HTML page about every finished run in DIRECTORY."""
    results = Store(directory).results()
    if not results:
        raise click.ClickException(f"{directory} holds no finished run; make some with: forgetting run … --out DIR")
    page = out or directory / "report.html"
    report.page(results, page)
    console.print(report.table(results))
    console.print(f"[bold]{page}[/bold] shows {len(results)} runs: open it in a browser")
