"""``forgetting compare``: what a fine-tune lost, from two files of weights that were trained anywhere."""

from __future__ import annotations

import copy
import importlib
import json
from pathlib import Path
from typing import Any

import click
from torch import nn

from forgetting import diagnosis, report
from forgetting.cli.console import console, default_device, usable
from forgetting.cli.fisher import Columns, iterable
from forgetting.cli.source import result, users_code

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command("compare")
@click.option("--before", type=_FILE, required=True, help="the weights before fine-tuning: safetensors or torch.save")
@click.option("--after", type=_FILE, required=True, help="the weights after it")
@click.option("--source", metavar="DATA.py:loader", required=True, help="held-out data of the source task")
@click.option("--network", metavar="MODEL.py:build", required=True,
              help="a function without arguments that returns the bare network; package.module:build does too")
@click.option("--refit", metavar="DATA.py:loader",
              help="other source data to fit the head and to measure norm statistics on; default: halves of --source")
@click.option("--outputs", type=Columns(), help="the source's columns of the outputs, such as 0-9")
@click.option("--head", metavar="LAYER", help="the source's linear layer; default: the one that gives the logits")
@click.option("--labels", type=click.Choice(["exact", "sampled"]),
              help="whose the Fisher diagonal is taken with; default: exact up to 32 outputs, sampled above")
@click.option("--device", help="a torch device; default: a GPU where there is one")
@click.option("--json", "json_file", type=_FILE, help="write every figure here too")
@click.option("--html", "html_file", type=_FILE, help="write a page with figures here too; needs the extra 'report'")
def compare_(before: Path, after: Path, source: str, network: str, refit: str | None, outputs: tuple[int, ...] | None,
             head: str | None, labels: str | None, device: str | None, json_file: Path | None,
             html_file: Path | None) -> None:
    """Say what a fine-tune lost of the source task, where, and what brings it back.

    DATA.py:loader is a function without arguments that returns an iterable of batches: (inputs, labels) pairs, mappings
    with "labels", or inputs alone. Without labels the figures are of agreement with the model before.
    """
    for option, file in (("--json", json_file), ("--html", html_file)):
        if file and not file.parent.is_dir():
            raise click.BadParameter(f"{option} {file}: there is no folder {file.parent}")
    place = usable(device or default_device())
    with users_code(network, source, *([refit] if refit else [])):
        old = _network(network)
        new = copy.deepcopy(old)
        for model, file in ((old, before), (new, after)):
            diagnosis.load(model, file).to(place)
        batches = result(source, "an iterable of batches", iterable)
        fitting = result(refit, "an iterable of batches", iterable) if refit else None
        found = diagnosis.compare(old, new, batches, refit=fitting, outputs=outputs, head=head, labels=labels)
    console.print(diagnosis.table(found))
    if json_file:
        _write(json_file, found.as_data())
    if html_file:
        report.comparison_page(found.as_data(), html_file)
        console.print(f"[bold]{html_file}[/bold] shows it: open it in a browser")


def _network(reference: str) -> nn.Module:
    """What ``MODEL.py:build`` or ``package.module:build`` returns."""
    expected = "a torch.nn.Module"
    module, colon, name = reference.rpartition(":")
    if module.endswith(".py") or not (colon and module and name.isidentifier()):
        return result(reference, expected, _is_module)
    try:
        found = getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"there is no module {error.name!r} to import for --network {reference}: install "
                                  "it, or name its file (MODEL.py:build)", name=error.name) from error
    except AttributeError as error:
        raise ValueError(f"{module} defines no {name!r}") from error
    value = found() if callable(found) and not _is_module(found) else found
    if not _is_module(value):
        raise TypeError(f"{reference} returned a {type(value).__name__}, expected {expected}")
    return value


def _is_module(value: Any) -> bool:
    return isinstance(value, nn.Module)


def _write(path: Path, data: dict[str, Any]) -> None:
    """One JSON file, whole or not at all."""
    temporary = path.with_name(f"{path.name}.part")
    temporary.write_text(json.dumps(data, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    temporary.replace(path)
