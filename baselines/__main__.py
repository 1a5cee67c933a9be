"""``python -m baselines``: run a published result's recipe, or report on all of them."""

from __future__ import annotations

import importlib
import os
from pathlib import Path

import click

from baselines.baseline import Baseline
from baselines.report import publication, report
from baselines.targets import published
from baselines.verdicts import FOLDER
from baselines.work import record, work
from forgetting.protocol import Processes, Store
from forgetting.report import page


class Baselines(click.Group):
    """A command a published table, and ``report``."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*published(), *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        about = published().get(name := name.replace("_", "-"))
        return super().get_command(ctx, name) if about is None else _command(name, f"{about.title} ({about.source}).")


@click.group(cls=Baselines)
def main() -> None:
    """Published results, sitting this library's exams."""


def _command(name: str, text: str) -> click.Command:
    """Run one of them."""

    @click.command(name, help=text)
    @click.option("--seed", type=click.IntRange(min=0), help="this one alone, beside the grid's; default: all")
    @click.option("--out", type=click.Path(path_type=Path, file_okay=False), default=Path("runs/baselines") / name,
                  show_default=True, help="where runs are kept, so that an interrupted command goes on")
    def command(seed: int | None, out: Path) -> None:
        found: Baseline = importlib.import_module(f"baselines.{name.replace('-', '_')}.recipe").BASELINE
        if seed is not None and seed >= found.seeds:
            raise click.BadParameter(f"--seed {seed}: the table is of the seeds 0 … {found.seeds - 1}")
        store = Store(out)
        work(found, range(found.seeds) if seed is None else [seed], store, Processes(os.cpu_count() or 1), click.echo)
        for path in record(found, store, FOLDER / name.replace("-", "_") / "results"):
            click.echo(f"{path} written")
        made = page(store.results(), out / "report.html", publication=publication(published()[name]))
        click.echo(f"{made} shows them: open it in a browser")

    return command


main.add_command(report)

if __name__ == "__main__":
    main()
