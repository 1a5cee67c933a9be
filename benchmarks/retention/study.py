"""One study: choose settings, then methods × seeds, into a store that goes on where it stopped."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import torch
from rich.console import Console

from benchmarks.retention import candidates, choice
from forgetting import methods, report
from forgetting.protocol import Executor, Processes, Recipe, Result, Store, Swept, sweep
from forgetting.protocol.measure import running_statistics

METHODS = ("finetune", "l2sp", "ewc", "kl", "wise-ft", "freeze", "replay")
console = Console()


def executor(workers: int, ray: str | None, device: str) -> Executor | None:
    """Where runs are computed: here, in so many processes, or on a Ray cluster."""
    if ray is not None:
        from forgetting.integrations.ray import Ray

        if workers > 1:
            raise click.BadParameter("--ray takes as many runs at once as the cluster holds: leave --workers away")
        return Ray(ray, gpus=1.0 if torch.device(device).type == "cuda" else 0.0)
    return Processes(workers) if workers > 1 else None


def sweeping(store: Path, where: Executor | None) -> choice.Sweep:
    """A sweep into one store that says what ended."""
    def observe(event: dict[str, Any]) -> None:
        if event["event"] == "result":
            result: Result = event["result"]
            last = " ".join(f"{100 * value:.1f}" for value in result.accuracy[-1])
            console.print(f"{result.method} {settings(result)} seed {result.seed}: {last} ({result.seconds:.0f} s)",
                          highlight=False)
        elif event["event"] == "diverged":
            console.print(f"{event['method']} seed {event['seed']}: {event['reason']}", style="red")

    def go(recipes: Sequence[Recipe], seeds: Sequence[int]) -> Swept:
        return sweep(recipes, seeds, store=Store(store), executor=where, observe=observe)

    return go


def settings(result: Result) -> str:
    """Rate and settings of a run, in a few words."""
    own = {"rate": result.recipe["rate"], **result.recipe["method"]["settings"]}
    return ", ".join(f"{key}={value}" for key, value in own.items() if value is not None)


def recipes(plain: Recipe, names: Sequence[str], chosen: dict[str, Any]) -> list[Recipe]:
    """What is reported: each method as it was chosen, and plain fine-tuning with norm statistics that move."""
    at = dataclasses.replace(plain, rate=chosen["rate"])
    found = [dataclasses.replace(at, method=methods.get(name, **chosen["settings"].get(name, {}))) for name in names]
    if running_statistics(_model(plain)):
        found.append(dataclasses.replace(at, method=candidates.MOVING, norm_statistics="moving"))
    return found


def study(plain: Recipe, kind: str, names: Sequence[str], seeds: int, out: Path, where: Executor | None) -> None:
    """Choose what ``out/chosen.json`` does not know, run what ``out/runs`` does not hold, and show the table."""
    chosen = choice.settle(plain, kind, names, sweeping(out / "choice", where), out / "chosen.json")
    done = sweeping(out / "runs", where)(recipes(plain, names, chosen), range(seeds))
    if done.results:
        console.print(report.table(done.results))
        console.print(f"a page with plots: forgetting report {out / 'runs'}")
    if done.diverged:
        raise click.ClickException("\n".join(f"seed {seed}: {error}" for _, seed, error in done.diverged))


def preamble(plain: Recipe, kind: str, names: Sequence[str], seeds: int, out: Path) -> None:
    """What would be run, before anything is."""
    sequence = plain.sequence_of(0)
    weights = sum(parameter.numel() for parameter in _model(plain).parameters())
    console.print(f"{sequence.name} ({sequence.scenario}-incremental), {sequence.classes} columns, data "
                  f"{sequence.fingerprint()}, {weights:,} weights, device {plain.device}", highlight=False)
    for task in sequence:
        parts = ", ".join(f"{len(part)} {name}" for name, part in task.parts._asdict().items())
        console.print(f"  {task.name}: {parts}", highlight=False)
    chosen = json.loads((out / "chosen.json").read_text()) if (out / "chosen.json").exists() else {"settings": {}}
    open_ = [name for name in names if name in candidates.CANDIDATES[kind] and name not in chosen["settings"]]
    choosing = sum(len(candidates.CANDIDATES[kind][name]) for name in open_)
    choosing += 0 if "rate" in chosen else len(candidates.RATES[kind])
    moving = recipes(plain, [], {"rate": plain.rate, "settings": {}})
    console.print(f"  {choosing} runs to choose, {(len(names) + len(moving)) * seeds} to report -> {out}",
                  highlight=False)


def shared_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options that every study has."""
    for option in reversed((
        click.option("--methods", "listed", default=",".join(METHODS), show_default=True, help="comma-separated"),
        click.option("--seeds", type=click.IntRange(min=1), default=3, show_default=True),
        click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="a store"),
        click.option("--epochs", type=click.IntRange(min=1), default=2, show_default=True, help="a task"),
        click.option("--batch", type=click.IntRange(min=1), default=32, show_default=True, help="examples a step"),
        click.option("--train", type=click.IntRange(min=1), default=500, show_default=True, help="examples a task"),
        click.option("--device", default="cpu", show_default=True),
        click.option("--workers", type=click.IntRange(min=1), default=1, show_default=True, help="runs at once"),
        click.option("--ray", metavar="ADDRESS", help="of a Ray cluster that computes the runs; auto for this one"),
        click.option("--dry-run", is_flag=True, help="say what would be run, and stop"),
    )):
        command = option(command)
    return command


def _model(recipe: Recipe) -> torch.nn.Module:
    return recipe.model_of(recipe.sequence_of(0), 0)
