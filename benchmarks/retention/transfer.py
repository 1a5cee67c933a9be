"""Does transfer pay? ``python -m benchmarks.retention.transfer --network mlp --weights permuted-mnist --out DIR``.

Fine-tuning, training from scratch and a linear probe at equal budget, over shares of the labels. Goes on where it
stopped. ``--record NAME`` keeps what came out as ``benchmarks/retention/results/transfer-NAME.json``.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from benchmarks.retention import study as studies
from benchmarks.retention.record import RESULTS
from benchmarks.retention.transfer_networks import MLP, SOURCES, Fresh, Saved, pretrain, target
from benchmarks.retention.transfer_page import summary
from forgetting import transfer
from forgetting.protocol.measure import provenance
from forgetting.tasks.packaged import packaged
from forgetting.tasks.pretrained import HUB, Classifier
from forgetting.tasks.sizes import Sizes

RATES = {
    MLP: {"finetune": (0.003, 0.01, 0.03, 0.1, 0.3), "scratch": (0.003, 0.01, 0.03, 0.1, 0.3),
          "linear-probe": (0.001, 0.003, 0.01, 0.03, 0.1)},
    "classifier": {"finetune": (0.0003, 0.001, 0.003, 0.01), "scratch": (0.001, 0.003, 0.01, 0.03),
                   "linear-probe": (0.001, 0.003, 0.01, 0.03)},
}
TARGETS = ("Fashion-MNIST", "MNIST", "CIFAR-10")
console = Console()


def _shares(_: click.Context, __: click.Parameter, value: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) / 100 for part in value.split(","))
    except ValueError:
        raise click.BadParameter(f"{value!r}: expected percentages with commas, such as 1,10,100") from None


OPTIONS = (
    click.option("--network", "name", default=MLP, help="mlp, a timm name, or torchvision:NAME"),
    click.option("--weights", help=f"of the mlp: {', '.join(SOURCES)}; else a file, hub or none; default: a package's"),
    click.option("--target", "aim", default=TARGETS[0], type=click.Choice(TARGETS)),
    click.option("--shares", default="1,3,10,30,100", callback=_shares, help="of the labels, in percent"),
    click.option("--chosen-at", type=click.FloatRange(0, 100), help="percent at which rates are chosen; default: each"),
    click.option("--seeds", type=click.IntRange(min=1), default=5),
    click.option("--steps", type=click.IntRange(min=1), default=300, help="of the optimizer, a run"),
    click.option("--batch", type=click.IntRange(min=1), default=32, help="examples a step"),
    click.option("--every", type=click.IntRange(min=1), default=20, help="steps between two measurements"),
    click.option("--train", type=click.IntRange(min=10), default=5000, help="labels that are 100 %"),
    click.option("--validation", type=click.IntRange(min=1), default=500, help="examples"),
    click.option("--test", type=click.IntRange(min=1), default=2000, help="examples"),
    click.option("--pixels", type=click.IntRange(min=8), default=64, help="that a classifier is shown"),
    click.option("--level", type=click.FloatRange(0, 1), default=0.5, help="validation accuracy that is timed"),
    click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="a store"),
    click.option("--device", default="cpu"),
    click.option("--workers", type=click.IntRange(min=1), default=1, help="runs at once"),
    click.option("--record", "kept", metavar="NAME", help="keep what comes out in the repository"),
    click.option("--dry-run", is_flag=True, help="say what would be run, and stop"),
)


def _with(options: Sequence[Callable[[Any], Any]]) -> Callable[[Any], Any]:
    """All of them, in this order."""
    return lambda command: functools.reduce(lambda inner, option: option(inner), reversed(options), command)


@click.command(context_settings={"show_default": True})
@_with(OPTIONS)
def main(out: Path, kept: str | None, dry_run: bool, **given: Any) -> None:
    """Compare fine-tuning, training from scratch and a linear probe at equal budget, over shares of the labels."""
    rates, shares = RATES.get(given["name"], RATES["classifier"]), given["shares"]
    candidates = len(rates["finetune"]) * (1 if given["chosen_at"] else len(shares))
    console.print(f"{given['name']} on {given['aim']}: {3 * candidates} runs to choose rates, "
                  f"{3 * len(shares) * given['seeds']} to report, {given['steps']} steps each -> {out}",
                  highlight=False)
    if dry_run:
        return
    content = study(given, out, rates)
    text = json.dumps(content, indent=1) + "\n"
    for file in [out / "transfer.json", *([RESULTS / f"transfer-{kept}.json"] if kept else [])]:
        file.write_text(text, encoding="utf-8")
    click.echo(summary(content))


def study(given: Mapping[str, Any], out: Path, rates: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Everything that is kept: what was compared, where, and every run."""
    sizes = Sizes(given["train"], given["validation"], given["test"])
    pretrained, scratch, weights = _networks(given, out)
    data = target(given["aim"], sizes, pretrained if isinstance(pretrained, Classifier) else None)
    found = transfer.measure(
        data, transfer.arms(pretrained, scratch, rates=rates), shares=given["shares"], seeds=range(given["seeds"]),
        budget=transfer.Budget(given["steps"], given["batch"], given["every"], device=given["device"]),
        store=out / "runs", chosen_at=given["chosen_at"] and given["chosen_at"] / 100,
        executor=studies.executor(given["workers"], None, given["device"]), observe=_said)
    about = {"network": given["name"], "weights": weights, "target": given["aim"], "level": given["level"],
             "sizes": dataclasses.asdict(sizes), "pixels": None if given["name"] == MLP else given["pixels"]}
    return {"about": about, "environment": _environment(given["device"], data.train.fingerprint()), **found.as_data()}


def _networks(given: Mapping[str, Any], out: Path) -> tuple[Any, Any, str]:
    """The pretrained model, the same with fresh weights, and what the weights are called."""
    name, weights = given["name"], given["weights"]
    if name == MLP:
        if weights not in SOURCES or given["aim"] == "CIFAR-10":
            raise click.BadParameter(f"the mlp learns MNIST or Fashion-MNIST, with --weights {', '.join(SOURCES)}")
        return Saved(pretrain(weights, out)), MLP, weights
    classifier = Classifier(name, weights or str(packaged(name) or HUB), given["pixels"])
    return classifier, Fresh(classifier), Path(classifier.weights).name


def _environment(device: str, fingerprint: str) -> dict[str, Any]:
    """Where and with what it was made."""
    found = provenance(device, 0, fingerprint)
    return {key: found[key] for key in ("versions", "platform", "threads", "device", "data")}


def _said(event: dict[str, Any]) -> None:
    """A line a run that ended."""
    if event["event"] == "result":
        result = event["result"]
        console.print(f"{result.recipe['network']} {result.method} rate {result.recipe['rate']} seed {result.seed}: "
                      f"{100 * result.accuracy[2, 0]:.1f} held out ({result.seconds:.1f} s)", highlight=False)
    elif event["event"] == "diverged":
        console.print(f"{event['method']} seed {event['seed']}: {event['reason']}", style="red", highlight=False)


if __name__ == "__main__":
    main()
