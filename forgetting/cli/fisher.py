"""``forgetting fisher``: how much each weight matters, in a file that serves without the data; files merge."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import click
from rich.table import Table
from torch import nn

from forgetting import fisher as estimates
from forgetting.cli import price
from forgetting.cli.console import console, default_device, usable
from forgetting.cli.source import result, users_code
from forgetting.curvature import Anchored

LIKELIHOODS = {"categorical": estimates.Categorical, "causal": estimates.CausalLanguageModel,
               "bernoulli": estimates.Bernoulli, "gaussian": estimates.Gaussian}
_LARGEST = 8  # parameters that are shown


class _Estimating(click.Group):
    """Whatever is no command is a model: ``fisher MODEL.py:build DATA.py:loader`` estimates."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in {*self.commands, *ctx.help_option_names}:
            args = ["estimate", *args]
        return super().parse_args(ctx, args)


class Columns(click.ParamType):
    """``0-4,7`` -> (0, 1, 2, 3, 4, 7)."""

    name = "columns"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        columns: list[int] = []
        for part in str(value).split(","):
            ends = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", part)
            if ends is None:
                self.fail(f"{value!r}: expected columns such as 0-4 or 0,1,7", param, ctx)
            first, last = int(ends[1]), int(ends[2] or ends[1])
            if last < first:
                self.fail(f"{value!r}: {first}-{last} runs backwards; did you mean {last}-{first}?", param, ctx)
            columns.extend(range(first, last + 1))
        return tuple(columns)


OUT = click.option("-o", "--out", type=click.Path(path_type=Path, dir_okay=False), required=True,
                   help="the safetensors file to write")


@click.group("fisher", cls=_Estimating, options_metavar="",
             subcommand_metavar="MODEL.py:build DATA.py:loader -o FILE | merge … | show …")
def fisher() -> None:
    """Estimate the Fisher information of a model, and keep it in a file with the model's weights.

    \b
    forgetting fisher MODEL.py:build DATA.py:loader -o FILE    estimate (its options: fisher estimate --help)
    forgetting fisher merge A B … -o FILE                      one file of several over different data
    forgetting fisher show FILE                                what a file holds
    """


@fisher.command()
@click.argument("model", metavar="MODEL.py:build")
@click.argument("data", metavar="DATA.py:loader")
@OUT
@click.option("--curvature", type=click.Choice(["diagonal", "kronecker"]), default="diagonal", show_default=True,
              help="one importance a weight, or factors of each layer")
@click.option("--labels", type=click.Choice(estimates.LABELS), default="exact", show_default=True,
              help="whose labels the gradients are taken with")
@click.option("--likelihood", type=click.Choice(list(LIKELIHOODS)),
              help="what the outputs mean; default: classes, where outputs and targets say so")
@click.option("--outputs", type=Columns(), help="the task's columns of the outputs, such as 0-4")
@click.option("--parameters", multiple=True, metavar="PATTERN", help="which parameters; default: all trainable ones")
@click.option("--examples", type=click.IntRange(min=1), help="use the first so many; default: all")
@click.option("--tolerance", type=float, default=0.0, help="share of the predictive trace to drop (exact labels)")
@click.option("--precision", type=float, help="stop when the trace is known to this relative standard error, 0.02 say")
@click.option("--device", help="a torch device; default: a GPU where there is one")
@click.option("--dry-run", is_flag=True, help="say what it would take, and stop; works for a model on the meta device")
def estimate(
    model: str, data: str, out: Path, curvature: str, labels: str, likelihood: str | None,
    outputs: tuple[int, ...] | None, parameters: Sequence[str], examples: int | None, tolerance: float,
    precision: float | None, device: str | None, dry_run: bool,
) -> None:
    """Estimate, with the data of DATA.py, the Fisher information of the model of MODEL.py.

    MODEL.py:build is a function without arguments that returns the pretrained model; DATA.py:loader is one that returns
    an iterable of batches: (inputs, targets) pairs, or mappings with "labels".
    """
    if precision is not None and curvature != "diagonal":
        raise click.UsageError("--precision is for --curvature diagonal")
    place = usable(device or default_device())
    options: dict[str, Any] = {
        "curvature": curvature, "labels": labels, "outputs": outputs, "parameters": parameters or None,
        "likelihood": LIKELIHOODS[likelihood]() if likelihood else None, "tolerance": tolerance,
    }
    if precision is not None:
        options["precision"] = precision  # only a diagonal takes it
    _check_writable(out)
    try:
        with users_code(model, data):
            built = result(model, "a torch.nn.Module", lambda value: isinstance(value, nn.Module))
            if dry_run:
                plan = price.Plan(curvature, labels, examples, early=precision is not None)
                price.show(built, parameters or None, plan, lambda: result(data, "an iterable of batches", iterable),
                           lambda batches: estimates.anchored(built.to(place), batches, **options))
                return
            batches = result(data, "an iterable of batches", iterable)
            kept = estimates.anchored(built.to(place), batches, examples=examples, progress=True, **options)
    except KeyboardInterrupt:
        raise click.ClickException(f"interrupted; {out} was not written") from None
    kept.save(out)
    _show(kept, out)


@fisher.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True, dir_okay=False))
@OUT
def merge(files: Sequence[Path], out: Path) -> None:
    """Merge FILES, estimates at the same weights over different data, into their mean over all the examples."""
    if len(files) < 2:
        raise click.UsageError("merge takes two files or more")
    _check_writable(out)
    merged = Anchored.load(files[0])
    for file in files[1:]:
        try:
            merged = merged.merge(Anchored.load(file))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{file} does not merge with what comes before it: {error}") from error
    merged.save(out)
    _show(merged, out)


@fisher.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
def show(file: Path) -> None:
    """Show what FILE holds."""
    _show(Anchored.load(file), file)


def iterable(value: Any) -> bool:
    return isinstance(value, Iterable) and not isinstance(value, (str, bytes, nn.Module))


def _check_writable(out: Path) -> None:
    """Raise before the work where its result could not be written after it."""
    folder = out.parent
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir():
        raise click.BadParameter(f"--out {out}: {folder} is a file, not a folder")


def _show(kept: Anchored, file: Path) -> None:
    """What an estimate is of and from, and where its weight lies."""
    weights = sum(value.numel() for value in kept.anchor.values())
    table = Table.grid(padding=(0, 2))
    facts = {
        "matrix": f"{type(kept.curvature).__name__}, {len(kept.anchor)} parameters, {weights:,} weights",
        "labels": kept.labels,
        "likelihood": kept.likelihood and ", ".join(
            str(value) if key == "name" else f"{key} {value}" for key, value in kept.likelihood.items()),
        "outputs": "all" if kept.outputs is None else ", ".join(map(str, kept.outputs)),
        "examples": kept.examples,
        "standard error": getattr(kept.curvature, "standard_error", None),
        "data": "\n".join(kept.fingerprints),
    }
    for name, value in facts.items():
        table.add_row(name, "–" if value is None else str(value))
    console.print(f"[bold]{file}[/bold]", table, sep="\n")
    masses = {name: float(value.sum()) for name, value in kept.curvature.diagonal().items() if value.dim()}
    if masses:
        _show_masses(masses)


def _show_masses(masses: dict[str, float]) -> None:
    """The trace, and the parameters that make up most of it."""
    whole = sum(masses.values())
    table = Table("parameter", "share of the trace", box=None, title=f"trace {whole:.4g}", title_justify="left")
    for name in sorted(masses, key=lambda name: -masses[name])[:_LARGEST]:
        table.add_row(name, f"{masses[name] / whole:.1%}" if whole else "–")
    console.print(table)
