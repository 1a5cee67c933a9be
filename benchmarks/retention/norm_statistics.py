"""Norm statistics forget without any weight changing: ``python -m benchmarks.retention.norm_statistics``.

A ResNet is pretrained on the digits and then sees the digits turned by 90° in train mode, at a learning rate so small
that no weight moves. With its running statistics moving the source is lost; held still, it is not. Beside it, the same
with a rate that learns. Needs the extras digits, vision and report; about two minutes on two cores.
"""

from __future__ import annotations

from pathlib import Path

import click
from torch import nn

from forgetting import report
from forgetting.protocol import Method, Recipe, Store, run
from forgetting.tasks import TaskSequence

NO_STEP = 1e-30  # θ − 1e-30·g is θ to the last bit


def resnet(sequence: TaskSequence) -> nn.Module:
    """A ResNet-10 for the digits, scaled up to 32 × 32 pixels."""
    import timm

    trunk = timm.create_model("resnet10t", in_chans=1, num_classes=sequence.classes)
    return nn.Sequential(nn.Upsample(scale_factor=4, mode="bilinear"), trunk)


def recipe(norm_statistics: str, rate: float) -> Recipe:
    """One row of the table."""
    passes = "forward-passes" if rate == NO_STEP else "finetune"
    return Recipe("digits-transfer", Method(f"{passes}-{norm_statistics}"), network=resnet, rate=rate, epochs=2,
                  pretraining_epochs=6, pretraining_rate=0.05, norm_statistics=norm_statistics, every=8)


@click.command()
@click.option("--seeds", default=3, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/norm-statistics"), show_default=True)
def main(seeds: int, out: Path) -> None:
    """Run the four rows and write one page about them."""
    rows = [recipe(statistics, rate) for rate in (NO_STEP, 0.001) for statistics in ("moving", "still")]
    results = [run(row, seed, store=Store(out)) for seed in range(seeds) for row in rows]
    for result in results:
        click.echo(f"{result.method:24} seed {result.seed}: source {result.accuracy[1, 0]:.3f} -> "
                   f"{result.accuracy[-1, 0]:.3f}, with the old statistics {result.restored:.3f}, target "
                   f"{result.accuracy[-1, 1]:.3f}, largest drift of a weight {max(result.drift.values()):.2g}")
    report.page(results, out / "report.html")
    click.echo(f"{out / 'report.html'}")


if __name__ == "__main__":
    main()
