"""What is compared, and what each of them may spend."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from forgetting import methods
from forgetting.protocol import Method
from forgetting.tasks import TaskSequence

FINETUNE, SCRATCH, PROBE = "finetune", "scratch", "linear-probe"
Network = str | Callable[[TaskSequence], nn.Module]


@dataclass(frozen=True)
class Arm:
    """One way to learn the target.

    Args:
        name: what tables call it.
        network: as a recipe's ``network=``: makes the model that it begins with.
        method: what learns.
        rates: candidates, of which validation chooses one.
        norm_statistics: ``"still"`` or ``"moving"``.

    Example:
        >>> Arm("scratch", "mlp", methods.get("finetune"), (0.01, 0.1), "moving").method.name
        'finetune'
    """

    name: str
    network: Network
    method: Method
    rates: tuple[float, ...]
    norm_statistics: str


@dataclass(frozen=True)
class Budget:
    """What every arm may spend at every share: the same optimizer steps with batches of the same size.

    Equal are the steps and the examples seen (a batch holds no more than the share does, alike for all arms). Not
    equal is the time: a probe's step has no backward pass through the features. Pretraining is not counted: the
    question is what a model that is there already is worth.

    Args:
        steps: of the optimizer, at every share.
        batch: examples a step.
        every: steps between two measurements on validation data.
        optimizer: as a recipe's.
        momentum: of SGD.
        device: a torch device.

    Example:
        >>> Budget(steps=100).batch
        32
    """

    steps: int
    batch: int = 32
    every: int = 20
    optimizer: str = "sgd"
    momentum: float = 0.9
    device: str = "cpu"


def arms(pretrained: Network, scratch: Network, *, rates: Mapping[str, Sequence[float]]) -> tuple[Arm, Arm, Arm]:
    """Fine-tuning, training from scratch, and a linear probe on fixed features.

    Fine-tuning and the probe begin with the same weights, head included; their norm statistics are still, as they are
    part of what was pretrained. From scratch they must move.

    Args:
        pretrained: makes the pretrained model with columns for the target.
        scratch: makes the same architecture with fresh weights; called with the generators seeded by the run.
        rates: ``"finetune"``, ``"scratch"`` and ``"linear-probe"`` -> as many candidates each.

    Raises:
        ValueError: for other names, or where one arm has more candidates than another.

    **Cost**: none; nothing is made yet.

    Example:
        >>> few = {"finetune": [0.1], "scratch": [0.1], "linear-probe": [1.0]}
        >>> [arm.name for arm in arms("mlp", "mlp", rates=few)]
        ['finetune', 'scratch', 'linear-probe']
    """
    counts = {name: len(candidates) for name, candidates in rates.items()}
    if set(counts) != {FINETUNE, SCRATCH, PROBE} or len(set(counts.values())) > 1 or 0 in counts.values():
        raise ValueError(f"rates= names as many candidates for each of {FINETUNE}, {SCRATCH} and {PROBE}; got {counts}")
    made = ((FINETUNE, pretrained, "finetune", "still"), (SCRATCH, scratch, "finetune", "moving"),
            (PROBE, pretrained, "linear-probe", "still"))
    finetune, fresh, probe = (Arm(name, network, methods.get(method), tuple(rates[name]), statistics)
                              for name, network, method, statistics in made)
    return finetune, fresh, probe
