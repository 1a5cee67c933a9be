"""Made-up runs, and a tiny target."""

import torch

from forgetting.tasks import DataSplit, Examples
from forgetting.transfer import Run


def run(arm, share, accuracy, seed=0, *, curve=((0, 0.1), (10, 0.5)), seconds=1.0, labels=None):
    """One run; its labels are the share of 1000."""
    return Run(arm, share, labels or round(1000 * share), seed, 0.1, accuracy, curve, seconds)


def runs(points):
    """(arm, share) -> accuracies, one a seed."""
    return [run(arm, share, value, seed) for (arm, share), values in points.items()
            for seed, value in enumerate(values)]


def target(examples=60):
    """Three well separated classes of four numbers each."""
    def part(count, seed):
        generator = torch.Generator().manual_seed(seed)
        targets = torch.arange(count) % 3
        return Examples(torch.eye(4)[targets] + 0.1 * torch.randn(count, 4, generator=generator), targets)

    return DataSplit(part(examples, 0), part(30, 1), part(30, 2))
