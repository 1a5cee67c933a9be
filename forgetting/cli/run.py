"""``forgetting run``: let methods learn a task sequence, and compare what they kept."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from forgetting import diagnosis, methods, report
from forgetting.cli import given
from forgetting.cli.console import console, default_device, usable
from forgetting.protocol import Method, Processes, Recipe, Result, Store, Swept, enqueue, forecast, sweep
from forgetting.tasks import TaskSequence
from forgetting.tasks.given import GIVEN
from forgetting.tasks.unknown import nearest

_SMALL = 200_000  # weights
Settings = dict[str, dict[str, Any]]


@click.command("run")
@click.argument("sequence")
@click.option("--methods", "names", required=True,
              help="comma-separated: names, ewc+replay for two together, file.py:Class, package.module:Class, or all")
@click.option("--seeds", type=click.IntRange(min=1), default=3, show_default=True, help="runs a method: seeds 0 … N−1")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="where results are kept")
@click.option("--scenario", type=click.Choice(["task", "domain", "class"]), help="task-, domain-, class-incremental")
@click.option("--device", help="a torch device; default: a GPU where there is one")
@click.option("--set", "assignments", multiple=True, metavar="METHOD.KEY=VALUE",
              help="a method's setting (ewc.strength=1e3), or the recipe's for all (recipe.epochs=5)")
@click.option("--json", "json_file", type=click.Path(path_type=Path, dir_okay=False), help="write the table as JSON")
@click.option("--wandb", "use_wandb", is_flag=True, help="log every run to Weights & Biases")
@click.option("--workers", type=click.IntRange(min=1), default=1, show_default=True, help="runs at once")
@click.option("--queue", is_flag=True, help="leave the runs to whoever starts: forgetting work DIRECTORY")
@click.option("--diagnose", is_flag=True, help="keep with each run what was lost and where, for forgetting report")
@click.option("--dry-run", is_flag=True, help="say what would be run and what it would cost, and stop")
@given.options
def run_(
    sequence: str, names: str, seeds: int, out: Path, scenario: str | None, device: str | None,
    assignments: Sequence[str], json_file: Path | None, use_wandb: bool, workers: int, queue: bool, diagnose: bool,
    dry_run: bool, **known: Any,
) -> None:
    """Let each method learn SEQUENCE, and show what it kept of the source task and how well it adapted.

    A sequence for a pretrained network of yours (images-…, texts-…, language-…: see forgetting list) takes it by
    --network.
    Finished runs are not repeated and an interrupted one goes on after its last finished task.
    """
    listed = _listed(names)
    if json_file and not json_file.parent.is_dir():
        raise click.BadParameter(f"--json {json_file}: there is no folder {json_file.parent}")
    _one_at_a_time({"--wandb": use_wandb, "--diagnose": diagnose}, several=queue or workers > 1)
    settings = _settings(assignments, [*listed, "recipe"])
    device = usable(device or default_device())
    recipes = _recipes(sequence, listed, {"scenario": scenario, "device": device}, settings, given.Options(**known))
    learned = recipes[0].sequence_of(0)
    with _threads(recipes[0], learned):
        _preamble(recipes, learned, seeds, out)
        if dry_run:
            return
        if queue:
            count = enqueue(recipes, range(seeds), store=Store(out))
            console.print(f"{count} runs are queued; start any number of workers: [bold]forgetting work {out}[/bold]")
            return
        results, diverged = _all_runs(recipes, learned, seeds, Store(out), use_wandb, workers, diagnose)
    if results:
        console.print(report.table(results))
        if diagnose and (without := sum(result.diagnosis is None for result in results)):
            console.print(f"{without} of {len(results)} runs hold no diagnosis: one that was finished before stays as "
                          "it is, and is diagnosed in a new --out")
        console.print(f"a page with plots: [bold]forgetting report {out}[/bold]")
        if json_file:
            _write_json(json_file, results)
    if diverged:
        raise click.ClickException("\n".join(f"seed {seed}: {error}" for _, seed, error in diverged))


def _listed(names: str) -> list[str]:
    """The methods of --methods, each once."""
    named = [name.strip() for name in names.split(",") if name.strip()]
    listed = list(dict.fromkeys(each for name in named for each in (methods.names() if name == "all" else [name])))
    if not listed:
        raise click.BadParameter("--methods names none: see forgetting list methods")
    return listed


def _one_at_a_time(asked: dict[str, bool], *, several: bool) -> None:
    """Refuse what looks at one run after the other where several run at once."""
    for option in (option for option, wanted in asked.items() if wanted and several):
        raise click.BadParameter(f"{option} takes one run at a time: leave --workers and --queue away")


def _all_runs(
    recipes: Sequence[Recipe], learned: TaskSequence, seeds: int, store: Store, use_wandb: bool, workers: int,
    diagnose: bool,
) -> Swept:
    """Every method with every seed; a method that diverges does not keep the others from the table."""
    begun: dict[int, tuple[contextlib.ExitStack, Any]] = {}
    with _progress(seeds * len(recipes) * len(learned)) as tell, contextlib.ExitStack() as every:

        def observe(event: dict[str, Any]) -> None:
            number = event["number"]
            if number not in begun:
                one = every.enter_context(contextlib.ExitStack())
                watching = _observer(tell, recipes[number // seeds], number % seeds, len(learned), use_wandb)
                begun[number] = one, one.enter_context(watching)
            one, inner = begun[number]
            inner(event)
            if event["event"] in ("result", "diverged"):
                one.close()

        executor = Processes(workers) if workers > 1 else None
        return sweep(recipes, range(seeds), store=store, executor=executor, observe=observe,
                     diagnose=diagnosis.of_run if diagnose else None)


def _settings(assignments: Sequence[str], listed: Sequence[str]) -> Settings:
    """``ewc.strength=1e3`` -> {"ewc": {"strength": 1000.0}}."""
    shown = {name.rpartition(":")[2]: name for name in listed}
    settings: Settings = {}
    for assignment in assignments:
        target, equals, value = assignment.partition("=")
        fitting = [name for name in shown if target.startswith(f"{name}.")]
        method = max(fitting, key=len, default=target.rpartition(".")[0])
        key = target[len(method) + 1 :]
        if not (equals and method and key):
            raise click.BadParameter(f"--set takes METHOD.KEY=VALUE, for example ewc.strength=1e3, not {assignment!r}")
        if method not in shown:
            raise click.BadParameter(nearest("method in --set", method, shown))
        settings.setdefault(shown[method], {})[key] = _value(value)
    return settings


def _value(text: str) -> Any:
    """A number, true, false, null or a list as JSON reads it; anything else is a text."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _recipes(
    name: str, listed: Sequence[str], chosen: dict[str, Any], settings: Settings, options: given.Options
) -> list[Recipe]:
    """One recipe a method: the sequence's suggested one, and what --set changes."""
    given.check(name)
    changes = settings.pop("recipe", {})
    fixed = {"sequence", "method", "scenario", "device"} | ({"network", "variation"} if name in GIVEN else set())
    known = {field.name for field in dataclasses.fields(Recipe)} - fixed
    for key in changes:
        if key not in known:
            raise click.BadParameter(nearest("recipe setting", key, known))
    made = [_method(method, name, settings.get(method, {})) for method in listed]
    fields = {**given.fields(name, options), **methods.suggested_recipe(name), **changes, **chosen}
    return [Recipe(method=method, **fields) for method in made]


def _method(name: str, sequence: str, settings: dict[str, Any]) -> Method:
    if ":" in name:
        if str(Path.cwd()) not in sys.path:
            sys.path.insert(0, str(Path.cwd()))  # package.module:Class means the user's own folder too
        return methods.load(name, **settings)
    return methods.get(name, sequence=sequence, **settings)


@contextlib.contextmanager
def _threads(recipe: Recipe, learned: TaskSequence) -> Iterator[None]:
    """One thread for a small model on a CPU: more of them only wait for each other."""
    before = torch.get_num_threads()
    if recipe.device == "cpu" and _weights(recipe.model_of(learned, 0)) < _SMALL:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _weights(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _preamble(recipes: Sequence[Recipe], learned: TaskSequence, seeds: int, out: Path) -> None:
    """What is about to happen and what it will cost, before anything is trained."""
    recipe = recipes[0]
    model = recipe.model_of(learned, 0)
    console.print(
        f"[bold]{learned.name}[/bold] ({learned.scenario}-incremental, {len(learned)} tasks, "
        f"{'pretrained' if learned.pretrained else 'from scratch'}), data {learned.fingerprint()}\n"
        f"device {recipe.device}, {recipe.dtype}, torch {torch.__version__}, {torch.get_num_threads()} threads; "
        f"{recipe.as_data()['network']}: {_weights(model):,} weights\n"
        f"{recipe.optimizer} at {recipe.rate:g}, {recipe.epochs} epochs of batches of {recipe.batch}\n"
        f"{len(recipes)} methods × {seeds} seeds -> {out}"
    )
    table = Table("method", "settings", "consolidation of a task", "kept in memory", box=None, title_justify="left")
    for recipe in recipes:
        settings = ", ".join(f"{key} {_shown(value)}" for key, value in recipe.method.settings.items()
                             if value is not None) or "–"
        cost = forecast(recipe, learned, model)
        shown = ("–", "–") if cost is None else (f"about {cost.seconds:.2g} s", f"{cost.bytes / 2**20:.2f} MiB")
        table.add_row(recipe.method.name, settings, *shown)
    console.print(table)


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


@contextlib.contextmanager
def _progress(total: int) -> Iterator[Any]:
    """A live line: what is learned now, and how many tasks are done."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("tasks"),
               TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        line = progress.add_task("starting", total=total)

        def tell(text: str, done: int = 0) -> None:
            progress.update(line, description=text, advance=done)

        yield tell


@contextlib.contextmanager
def _observer(tell: Any, recipe: Recipe, seed: int, learned: int, use_wandb: bool) -> Iterator[Any]:
    """Shows a run's events on the live line, and hands them to wandb where that was asked for."""
    name, finished = recipe.method.name, 0
    with contextlib.ExitStack() as stack:
        inner = None
        if use_wandb:
            from forgetting.integrations.wandb import observing

            inner = stack.enter_context(observing(recipe, seed))

        def observe(event: dict[str, Any]) -> None:
            nonlocal finished
            if event["event"] == "task":
                finished += 1
                tell(f"{name}, seed {seed}: task {event['task']} learned", 1)
            elif event["event"] == "step":
                tell(f"{name}, seed {seed}: task {event['task']}, step {event['step']}")
            if inner is not None:
                inner(event)

        yield observe
        tell(f"{name}, seed {seed}: done", learned - finished)


def _write_json(path: Path, results: Sequence[Result]) -> None:
    temporary = path.with_name(f"{path.name}.part")
    temporary.write_text(json.dumps(report.rows(results), indent=2, allow_nan=False) + "\n", encoding="utf-8")
    temporary.replace(path)
