"""``forgetting run | work | report | list | fisher | compare``: benchmark methods, see the figures, find losses."""

from __future__ import annotations

import click

from forgetting.cli.compare import compare_
from forgetting.cli.console import Errors
from forgetting.cli.fisher import fisher
from forgetting.cli.report import list_, report_
from forgetting.cli.run import run_
from forgetting.cli.work import work_


@click.group(cls=Errors, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="forgetting")
def main() -> None:
    """Keep what a pretrained model knows while it learns, and measure both."""


for command in (list_, run_, work_, report_, fisher, compare_):
    main.add_command(command)
