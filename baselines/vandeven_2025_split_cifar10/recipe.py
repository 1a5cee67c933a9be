"""van de Ven 2025, "On the Computation of the Fisher Information in Continual Learning", table 1: Split CIFAR-10."""

from baselines.baseline import Baseline, Row
from forgetting.protocol import Recipe

DECADES = tuple(10.0**power for power in range(14))

PROTOCOL = Recipe(
    "split-cifar10", scenario="task", variation={"order": "permuted", "pixels": "standard"},
    network="resnet18-reduced", optimizer="adam", rate=1e-3, keep_optimizer=True, steps=2000, batch=256, drop_last=True,
    every=2000, device="cuda",
)

BASELINE = Baseline(
    "vandeven-2025-split-cifar10", PROTOCOL, (
        Row("exact", "ewc", {"labels": "exact"}, strengths=DECADES),
        Row("exact-500", "ewc", {"labels": "exact", "examples": 500}, strengths=DECADES[:9]),
        Row("sampled", "ewc", {"labels": "sampled"}, strengths=DECADES[3:12]),
        Row("empirical", "ewc", {"labels": "empirical"}, strengths=DECADES[4:13]),
        Row("batched", "ewc", {"labels": "batched"}, strengths=DECADES[5:14]),
        Row("none", "finetune"),
    ),
)
