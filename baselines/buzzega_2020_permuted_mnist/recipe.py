"""Buzzega et al. 2020, "Dark Experience for General Continual Learning", arXiv 2004.07211: Permuted and Rotated MNIST.

Its penalties have no ½: the strengths here are twice its coefficients.
"""

from baselines.baseline import Baseline, Row
from baselines.buzzega_2020_permuted_mnist.network import xavier
from forgetting.protocol import Recipe

ROTATED = {"sequence": "rotated-mnist",
           "variation": {"validation": 0.0, "tasks": 20, "angles": "drawn", "interpolation": "nearest"}}

PROTOCOL = Recipe(
    "permuted-mnist", scenario="domain", variation={"validation": 0.0, "tasks": 20}, network=xavier, optimizer="sgd",
    rate=0.1, epochs=1, batch=128, every=10**6,
)

BASELINE = Baseline(
    "buzzega-2020-permuted-mnist", PROTOCOL, (
        Row("permuted-sgd", "finetune", {}, {"rate": 0.2}),
        Row("permuted-sgd-at-their-rate", "finetune"),
        Row("permuted-online-ewc", "baselines.conventions:LabelShareEWC", {"strength": 1.4}),
        Row("permuted-online-ewc-exact", "ewc", {"strength": 1.4, "labels": "exact"}),
        Row("permuted-si", "baselines.clipping:clipped_si", {"strength": 1.0, "damping": 1.0}),
        Row("permuted-si-of-the-task", "si", {"strength": 1.0, "damping": 1.0}),
        Row("rotated-sgd", "finetune", {}, {**ROTATED, "rate": 0.2}),
        Row("rotated-online-ewc", "baselines.conventions:LabelShareEWC", {"strength": 1.4}, ROTATED),
        Row("rotated-online-ewc-exact", "ewc", {"strength": 1.4, "labels": "exact"}, ROTATED),
        Row("rotated-si", "baselines.clipping:clipped_si", {"strength": 2.0, "damping": 1.0}, ROTATED),
        Row("rotated-si-of-the-task", "si", {"strength": 2.0, "damping": 1.0}, ROTATED),
    ),
)
