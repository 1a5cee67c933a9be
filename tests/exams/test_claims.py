"""Published statements without a table, each as a test of one small setting that this machine can afford.

A statement that does not hold in its setting here is an expected failure, with what was measured as its reason: the
test goes red on the day on which it starts to hold.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from forgetting import methods
from forgetting.protocol import Method, Recipe, Result, metrics, run
from forgetting.tasks import TaskSequence, data_root, mnist, split

pytestmark = [
    pytest.mark.exam, pytest.mark.data, pytest.mark.timeout(3600),
    pytest.mark.skipif(not (data_root() / "MNIST").exists(), reason=f"no MNIST at {data_root()}"),
]
SEEDS = range(3)
TRANSFER = Recipe("mnist-fashion-mnist", scenario="task", momentum=0.9, rate=0.02, epochs=1, batch=128,
                  pretraining_epochs=3, pretraining_rate=0.05, every=10**6)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Kept for all of this file: what two tests ask for is run once."""
    return tmp_path_factory.mktemp("claims")


def runs(recipe: Recipe, method: Method, store: Path) -> list[Result]:
    return [run(dataclasses.replace(recipe, method=method), seed, store=store) for seed in SEEDS]


def permuted(name: str, store: Path, **settings: float) -> np.ndarray:
    """Average accuracy after ten permuted tasks, by seed."""
    protocol = Recipe("permuted-mnist", network="mlp-400-400", rate=0.1, epochs=2, batch=128, every=10**6)
    return np.array([metrics.average_accuracy(result.accuracy)
                     for result in runs(protocol, methods.get(name, **settings), store)])


def test_ewc_keeps_ten_permuted_tasks_where_sgd_falls(store: Path) -> None:
    """Kirkpatrick et al. 2017, arXiv 1612.00796, figure 2A."""
    assert (permuted("ewc", store, strength=30.0) - permuted("finetune", store) > 0.05).all()


@pytest.mark.xfail(strict=True, reason="0.90 at strength 30; 0.87 at 100 (proximal); 0.90 with 4 epochs at half the "
                                       "rate, strength 50; 0.88 with 1000 units a layer: they searched over widths, "
                                       "rates and 100 epochs with dropout and early stopping")
def test_ewc_ends_ten_permuted_tasks_near_its_published_accuracy(store: Path) -> None:
    """Kirkpatrick et al. 2017, figure 2B, read off: about 0.94 to 0.95."""
    assert 0.93 <= permuted("ewc", store, strength=30.0).mean() <= 0.96


def test_lora_learns_less_and_forgets_less(store: Path) -> None:
    """Biderman et al. 2024, arXiv 2405.09673: than full fine-tuning, at the rate that suits each."""
    full, lora = (np.array([result.accuracy[-1] for result in runs(TRANSFER, methods.get(name), store)])
                  for name in ("finetune", "lora"))
    assert (lora[:, 0] > full[:, 0]).all(), "LoRA forgets less"
    assert (lora[:, 1] < full[:, 1]).all(), "LoRA learns less"


def test_between_the_weights_before_and_after_lies_something_better_than_both(store: Path) -> None:
    """Wortsman et al. 2022, arXiv 2109.01903: the mean over source and target along the line between the two ends."""
    for result in runs(TRANSFER, methods.get("wise-ft"), store):
        line = {point["amount"]: float(np.mean(point["accuracy"])) for point in result.curve}
        inside = max(mean for amount, mean in line.items() if 0 < amount < 1)
        assert inside > line[0.0]
        assert inside > line[1.0]


def few(examples: int) -> TaskSequence:
    """MNIST's digits 0 to 4, which the model knows, then 5 to 9 of which it sees few."""
    whole = split("halves", mnist(0), 2, pretrained=True)
    target = dataclasses.replace(whole[1], train=whole[1].train.subset(torch.arange(examples)))
    return dataclasses.replace(whole, name=f"halves-{examples}", tasks=(whole[0], target))


def chosen(candidates: list[tuple[Method, float]], store: Path) -> np.ndarray:
    """Source and target accuracy by seed, of the candidate with the best target accuracy on validation data."""
    protocol = Recipe(few(100), momentum=0.9, rate=0.01, epochs=60, batch=20, pretraining_epochs=3,
                      pretraining_rate=0.05, every=10**6)
    found = []
    for method, decay in candidates:
        results = runs(dataclasses.replace(protocol, weight_decay=decay), method, store)
        validation = [result.validation[-1, 1] for result in results if result.validation is not None]
        found.append((np.mean(validation), np.array([result.accuracy[-1] for result in results])))
    return max(found, key=lambda candidate: candidate[0])[1]


@pytest.mark.xfail(strict=True, reason="not on MNIST's halves with 100 examples: L2-SP ends 0.1 to 0.6 points below")
def test_l2sp_beats_weight_decay_on_the_target(store: Path) -> None:
    """Li, Grandvalet & Davoine 2018, arXiv 1802.01483, table 2; theirs are features of ImageNet."""
    plain = [(methods.get("finetune"), decay) for decay in (0.0, 1e-4, 1e-3, 1e-2)]
    anchored = [(methods.get("l2sp", strength=strength), 0.0) for strength in (0.01, 0.03, 0.1, 0.3)]
    assert (chosen(anchored, store)[:, 1] > chosen(plain, store)[:, 1]).all()


def test_the_fisher_adds_little_on_the_target(store: Path) -> None:
    """Li, Grandvalet & Davoine 2018, arXiv 1802.01483, section 4.4: L2-SP weighed by the Fisher."""
    plain = [(methods.get("l2sp", strength=strength), 0.0) for strength in (0.01, 0.03, 0.1, 0.3)]
    weighed = [(methods.get("ewc", strength=strength), 0.0) for strength in (1.0, 10.0, 100.0, 1000.0)]
    difference = chosen(weighed, store)[:, 1] - chosen(plain, store)[:, 1]
    assert abs(difference.mean()) < 0.01
