"""The promises about retention, on real data, with the settings that were chosen on validation data."""

from __future__ import annotations

from pathlib import Path

import pytest

from forgetting import methods, report
from forgetting.protocol import Recipe, Result, Store, metrics, run
from forgetting.tasks import data_root

pytestmark = [pytest.mark.exam, pytest.mark.timeout(3600)]
DEMO = ("finetune", "small-rate", "ewc", "l2sp", "freeze", "linear-probe", "layerwise-decay", "wise-ft", "joint")


def results(sequence: str, names: tuple[str, ...], seeds: int, store: Path) -> list[Result]:
    fields = methods.suggested_recipe(sequence)
    recipes = [Recipe(sequence, methods.get(name, sequence=sequence), **fields) for name in names]
    return [run(recipe, seed, store=Store(store)) for seed in range(seeds) for recipe in recipes]


def test_the_demo(tmp_path: Path) -> None:
    """Plain fine-tuning forgets; EWC and L2-SP keep significantly more and adapt; nothing passes the ceiling."""
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn (extra: digits)")
    rows = {row["method"]: row for row in report.rows(results("digits-transfer", DEMO, 10, tmp_path))}
    plain = rows["finetune"]
    assert plain["source_before"]["mean"] - plain["source_after"]["mean"] >= 0.20
    for name in ("ewc", "l2sp"):
        assert rows[name]["paired"]["retention"]["difference"] > 0
        assert rows[name]["paired"]["retention"]["holm"] < 0.05
        assert rows[name]["adaptation"]["mean"] >= 0.90
    ceiling = rows["joint"]["average_accuracy"]
    for row in rows.values():
        assert row["average_accuracy"]["mean"] <= ceiling["mean"] + 2 * ceiling["sem"]


@pytest.mark.data
def test_permuted_mnist(tmp_path: Path) -> None:
    """Ten tasks, one epoch each: EWC ends at least 5 points above plain fine-tuning, with every seed."""
    if not (data_root() / "MNIST").exists():
        pytest.skip(f"no MNIST at {data_root()}")
    found = results("permuted-mnist", ("finetune", "ewc"), 3, tmp_path)
    average = {(result.method, result.seed): metrics.average_accuracy(result.accuracy) for result in found}
    for seed in range(3):
        assert average["ewc", seed] - average["finetune", seed] >= 0.05


def test_norm_statistics_forget_without_any_weight_changing(tmp_path: Path) -> None:
    """A ResNet at a rate that moves no weight: moving statistics lose the source, still ones do not."""
    pytest.importorskip("timm", reason="the ResNet is timm's (extra: vision)")
    from benchmarks.retention.norm_statistics import NO_STEP, recipe

    moving, still = (run(recipe(norms, NO_STEP), 0, store=tmp_path) for norms in ("moving", "still"))
    assert max(moving.drift.values()) == max(still.drift.values()) == 0.0
    assert moving.accuracy[-1, 0] <= moving.accuracy[1, 0] - 0.20
    assert moving.restored == moving.accuracy[1, 0]
    assert still.accuracy[-1, 0] == still.accuracy[1, 0]
