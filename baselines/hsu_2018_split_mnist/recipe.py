"""Hsu et al. 2018, "Re-evaluating Continual Learning Scenarios", arXiv 1810.12488, table 2: Split MNIST.

Its penalties have no ½: the strengths here are twice its coefficients.
"""

from baselines.baseline import Baseline, Row
from forgetting.protocol import Recipe

SCENARIOS = {"task": 0, "domain": 1, "class": 2}
COEFFICIENTS = {
    "l2": ("l2sp", {}, (0.01, 0.5, 100)),
    "ewc": ("baselines.conventions:ArgmaxEWC", {"anchors": "separate"}, (100, 100, 600)),
    "online-ewc": ("baselines.conventions:ArgmaxEWC", {}, (400, 700, 100)),
    "si": ("si", {"damping": 0.1}, (300, 3000, 600)),
    "mas": ("baselines.conventions:BatchMAS", {}, (1, 10000, 1)),
}
REHEARSAL = "baselines.hsu_2018_split_mnist.rehearsal:naive_rehearsal"

PROTOCOL = Recipe(
    "split-mnist", scenario="task", variation={"validation": 0.0, "padding": 2, "pixels": "standard"},
    network="mlp-400-400", optimizer="adam", rate=1e-3, keep_optimizer=True, epochs=4, batch=128, every=10**6,
)


def rows(scenario: str) -> list[Row]:
    """The table's column of one scenario."""
    own = {"scenario": scenario}
    place = SCENARIOS[scenario]
    penalties = [Row(f"{scenario}-{name}", method, {**settings, "strength": 2.0 * coefficients[place]}, own)
                 for name, (method, settings, coefficients) in COEFFICIENTS.items()]
    return [
        Row(f"{scenario}-adam", "finetune", {}, own),
        Row(f"{scenario}-sgd", "finetune", {}, {**own, "optimizer": "sgd", "rate": 0.01}),
        Row(f"{scenario}-adagrad", "finetune", {}, {**own, "optimizer": "adagrad", "rate": 0.01}),
        *penalties,
        Row(f"{scenario}-rehearsal-1100", REHEARSAL, {"capacity": 1100}, own),
        Row(f"{scenario}-rehearsal-4400", REHEARSAL, {"capacity": 4400}, own),
        Row(f"{scenario}-offline", "joint", {}, own),
    ]


BASELINE = Baseline(
    "hsu-2018-split-mnist", PROTOCOL, tuple(row for scenario in SCENARIOS for row in rows(scenario)), seeds=5,
)
