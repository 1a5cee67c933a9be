"""Choose rates and settings on validation data: ``python -m benchmarks.retention.choose SEQUENCE``.

Every method gets six candidates; plain fine-tuning's are its rates. Where the best strength or rate is the last of its
range, the range goes on; of another setting that is said. All runs use seeds that no table reports and the validation
parts in place of the tests. The rate is the one at which plain fine-tuning learns the
later tasks best; every other setting is the one with the best average accuracy over all tasks at the end, at that
rate. The choice, with every candidate's score, goes into ``forgetting/chosen.json``.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from rich.console import Console

import forgetting
from forgetting import methods, tasks
from forgetting.methods import registry
from forgetting.protocol import Diverged, Recipe, metrics, run
from forgetting.tasks import TaskSequence

CHOSEN = Path(forgetting.__file__).with_name("chosen.json")
FIRST_SEED = 1000


def _each(setting: str, *values: float) -> tuple[dict[str, Any], ...]:
    return tuple({setting: value} for value in values)


CANDIDATES: dict[str, tuple[dict[str, Any], ...]] = {
    "small-rate": _each("rate", 0.3, 0.2, 0.1, 0.05, 0.03, 0.01),
    "ewc": _each("strength", 1.0, 3.0, 10.0, 30.0, 60.0, 100.0),
    "l2sp": _each("strength", 0.001, 0.01, 0.03, 0.1, 0.3, 1.0),
    "ewc-dr": _each("strength", 1.0, 3.0, 10.0, 30.0, 100.0, 300.0),
    "si": _each("strength", 0.03, 0.1, 0.3, 1.0, 3.0, 10.0),
    "mas": _each("strength", 0.1, 0.3, 1.0, 3.0, 10.0, 30.0),
    "rwalk": _each("strength", 0.3, 1.0, 3.0, 10.0, 30.0, 100.0),
    "mixout": _each("probability", 0.003, 0.01, 0.03, 0.1, 0.3, 0.5),
    "lwf": _each("strength", 0.03, 0.1, 0.25, 0.5, 1.0, 2.0),
    "kl": _each("strength", 0.03, 0.1, 0.3, 1.0, 3.0, 10.0),
    "feature-l2": _each("strength", 0.01, 0.1, 0.3, 1.0, 3.0, 10.0),
    "delta": _each("strength", 0.01, 0.1, 0.3, 1.0, 3.0, 10.0),
    "batch-spectral-shrinkage": _each("strength", 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0),
    "replay": _each("strength", 0.1, 0.3, 1.0, 2.0, 4.0, 8.0),
    "der": _each("strength", 0.03, 0.1, 0.3, 0.5, 1.0, 2.0),
    "derpp": _each("strength", 0.03, 0.1, 0.3, 0.5, 1.0, 2.0),
    "agem": _each("batch", 16, 32, 64, 128, 256, 512),
    "proxy-replay": _each("strength", 0.1, 0.3, 1.0, 2.0, 4.0, 8.0),
    "freeze": tuple({"depth": depth, "rate": rate} for depth in (1, 2) for rate in (0.3, 1.0, 3.0)),
    "linear-probe": _each("rate", 0.03, 0.1, 0.3, 1.0, 3.0, 10.0),
    "gradual-unfreezing": _each("rate", 0.1, 0.3, 0.5, 1.0, 2.0, 3.0),
    "lp-ft": _each("share", 0.02, 0.05, 0.1, 0.3, 0.5, 0.7),
    "fisher-freezing": _each("share", 0.3, 0.5, 0.7, 0.8, 0.9, 0.95),
    "layerwise-decay": _each("decay", 0.9, 0.7, 0.5, 0.3, 0.2, 0.1),
    "slanted-triangular": _each("rate", 0.1, 0.3, 0.5, 1.0, 2.0, 3.0),
    "warmup-stable-decay": _each("rate", 0.1, 0.3, 0.5, 1.0, 2.0, 3.0),
    "rewarm": _each("rate", 0.1, 0.3, 0.5, 1.0, 2.0, 3.0),
    "cosine": _each("rate", 0.1, 0.3, 0.5, 1.0, 2.0, 3.0),
    "lora": _each("rate", 0.3, 1.0, 2.0, 3.0, 5.0, 10.0),
    "lora-ewc": _each("strength", 1.0, 10.0, 30.0, 100.0, 300.0, 1000.0),
    "wise-ft": _each("amount", 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
    "fisher-merging": _each("amount", 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
    "ema": _each("decay", 0.9, 0.95, 0.98, 0.99, 0.995, 0.998),
    "sfa": _each("amount", 0.1, 0.3, 0.5, 0.7, 0.8, 0.9),
    "joint": _each("rate", 0.5, 1.0, 1.5, 2.0, 3.0, 5.0),
}
UNBOUNDED, LONGEST = {"strength", "rate"}, 12  # settings whose range may go on, and to how many candidates
FISHER_EXAMPLES = 2000  # exact labels of all 55 000 images would take nine backwards each
EVERY = {"split-mnist": 40, "permuted-mnist": 200, "rotated-mnist": 200}  # steps between measurements, for display
RATES = {"sgd": (0.02, 0.05, 0.1, 0.2, 0.5, 1.0), "adam": (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03)}
console = Console()


def on_validation(sequence: TaskSequence) -> TaskSequence:
    """The same sequence with the validation parts as tests: the tests are never touched."""
    hidden = [dataclasses.replace(task, test=task.validation) for task in sequence]
    return dataclasses.replace(sequence, tasks=tuple(hidden))


def scores(recipe: Recipe, seeds: Sequence[int], figure: Callable[[np.ndarray], float], store: Path) -> list[float]:
    """One figure a seed; −1 where the training diverged."""
    name, found = str(recipe.sequence), []
    for seed in seeds:
        sequence = on_validation(tasks.sequence(name, scenario=recipe.scenario, seed=seed))
        try:
            found.append(figure(run(dataclasses.replace(recipe, sequence=sequence), seed, store=store).accuracy))
        except Diverged:
            found.append(-1.0)
    return found


def learned_later(accuracy: np.ndarray) -> float:
    """The mean accuracy on the tasks after the source, each right after it was learned."""
    return float(np.diagonal(accuracy[1:])[1:].mean())


def best(name: str, candidates: Sequence[Any], recipe_of: Callable[[Any], Recipe], seeds: Sequence[int],
         figure: Callable[[np.ndarray], float], store: Path) -> tuple[Any, list[dict[str, Any]]]:
    """The candidate with the highest mean, and the scores of all that were tried."""
    left, table = list(candidates), []
    while left:
        candidate = left.pop(0)
        found = scores(recipe_of(candidate), seeds, figure, store)
        table.append({"candidate": candidate, "mean": round(float(np.mean(found)), 4), "scores": found})
        console.print(f"{name:16} {candidate}: {table[-1]['mean']:.4f}")
        end = None if left else last_of_its_range(table)
        if end is not None and end[0] in UNBOUNDED and len(table) < LONGEST:
            key, last, before = end
            left.append({**candidate, key: float(f"{last**2 / before:.1g}")})
        elif end is not None:
            console.print(f"[yellow]{name}: the best {end[0]}, {end[1]:g}, is the last of its range[/yellow]")
    return max(table, key=lambda entry: entry["mean"])["candidate"], table


def last_of_its_range(table: Sequence[dict[str, Any]]) -> tuple[str, float, float] | None:
    """The one setting that varies, its best value and the value beside it, where the best is an end of the range."""
    first = table[0]["candidate"]
    keys = first if isinstance(first, dict) else ()
    varied = [key for key in keys if any(entry["candidate"][key] != first[key] for entry in table)]
    if len(varied) != 1:
        return None
    (key,) = varied
    means = {entry["candidate"][key]: entry["mean"] for entry in table}
    values = sorted(means)
    for end, neighbour in ((0, 1), (-1, -2)):
        if means[values[end]] > max(mean for value, mean in means.items() if value != values[end]):
            return key, values[end], values[neighbour]
    return None


@click.command()
@click.argument("name", type=click.Choice(tasks.names()))
@click.option("--methods", "listed", default=",".join(CANDIDATES), show_default=True, help="comma-separated")
@click.option("--seeds", default=4, show_default=True, help=f"seeds {FIRST_SEED} and on, which no table reports")
@click.option("--set", "fields", multiple=True, metavar="KEY=VALUE", help="fields of the recipe, e.g. epochs=1")
@click.option("--keep", is_flag=True, help="keep the recipe and the other methods' settings that stand")
@click.option("--store", type=click.Path(path_type=Path), default=Path("runs/choose"), show_default=True)
def main(name: str, listed: str, seeds: int, fields: Sequence[str], keep: bool, store: Path) -> None:
    """Choose for the sequence NAME and write the choice into forgetting/chosen.json."""
    torch.set_num_threads(1 if "digits" in name else torch.get_num_threads())
    given = {key: json.loads(value) for key, _, value in (field.partition("=") for field in fields)}
    drawn = range(FIRST_SEED, FIRST_SEED + seeds)
    stands = methods.suggested(name) if keep else {"recipe": {}, "methods": {}, "provenance": {}}
    given = {**stands["recipe"], **given}
    plain = Recipe(name, methods.get("finetune"), **{**given, "every": 10**6})
    chosen, evidence = dict(stands["methods"]), dict(stands["provenance"].get("candidates", {}))
    if not keep:
        given["rate"], evidence["finetune"] = best(
            "finetune", RATES[plain.optimizer], lambda rate: dataclasses.replace(plain, rate=rate), drawn,
            learned_later, store)
    shown = {"every": EVERY[name]} if name in EVERY else {}
    recipe = dataclasses.replace(plain, rate=given["rate"])
    for method in listed.split(","):
        takes = inspect.signature(registry.maker(method)).parameters
        fixed = {"examples": FISHER_EXAMPLES} if "mnist" in name and "examples" in takes and method != "delta" else {}
        chosen[method], evidence[method] = best(
            method, [{**fixed, **candidate} for candidate in CANDIDATES[method]],
            lambda settings, method=method: dataclasses.replace(recipe, method=methods.get(method, **settings)), drawn,
            metrics.average_accuracy, store)
        commands = [*stands["provenance"].get("commands", [stands["provenance"].get("command")] if keep else []),
                    "python -m benchmarks.retention.choose " + " ".join(sys.argv[1:])]
        _write(name, {**given, **shown}, chosen, {
            "commands": commands,
            "criterion": "rate: plain fine-tuning's accuracy on the later tasks right after learning; all else: "
                         "average accuracy over all tasks at the end; both on validation data",
            "seeds": f"{FIRST_SEED} and on, as many as a candidate has scores", "torch": torch.__version__,
            "candidates": evidence,
        })


def _write(name: str, recipe: dict[str, Any], chosen: dict[str, Any], provenance: dict[str, Any]) -> None:
    """Put one sequence's choice into the table, the others left as they are."""
    table = json.loads(CHOSEN.read_text(encoding="utf-8")) if CHOSEN.exists() else {}
    table[name] = {"provenance": provenance, "recipe": recipe, "methods": chosen}
    CHOSEN.write_text(json.dumps(table, indent=1, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
