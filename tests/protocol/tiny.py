"""A sequence of three small tasks, networks for it, and recipes that take milliseconds."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from forgetting.protocol import Method, Recipe, Situation
from forgetting.regularizers import EWC, L2SP
from forgetting.tasks import Examples, Task, TaskSequence

FEATURES = 6


def examples(outputs: tuple[int, ...], count: int, seed: int, turn: float = 0.0) -> Examples:
    """Points around one centre a class, the centres turned in the first plane."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.tensor(outputs)[torch.arange(count) % len(outputs)]
    centres = 2 * torch.randn(12, FEATURES, generator=torch.Generator().manual_seed(7))
    rotation = torch.eye(FEATURES)
    rotation[:2, :2] = torch.tensor([[1.0, turn], [-turn, 1.0]])
    points = centres[targets] @ rotation + torch.randn(count, FEATURES, generator=generator)
    return Examples(points, targets)


def sequence(scenario: str = "task", *, pretrained: bool = False, count: int = 50) -> TaskSequence:
    """Three tasks: of two classes each, or of the same four classes turned further and further."""
    tasks = []
    for number in range(3):
        outputs = (0, 1, 2, 3) if scenario == "domain" else (2 * number, 2 * number + 1)
        turn = 1.5 * number if scenario == "domain" else 0.0
        parts = [examples(outputs, size, 10 * number + place, turn) for place, size in enumerate((count, 10, 30))]
        tasks.append(Task(f"task {number + 1}", *parts, outputs=outputs))
    return TaskSequence("tiny", tuple(tasks), scenario, 4 if scenario == "domain" else 6, pretrained)


def network(tasks: TaskSequence) -> nn.Module:
    """Dropout and a norm layer, so that generators and running statistics matter."""
    return nn.Sequential(nn.Linear(FEATURES, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Dropout(0.3),
                         nn.Linear(12, tasks.classes))


def plain_network(tasks: TaskSequence) -> nn.Module:
    """Without dropout and norm layers."""
    return nn.Sequential(nn.Linear(FEATURES, 12), nn.ReLU(), nn.Linear(12, tasks.classes))


def ewc(strength: float = 1.0, mode: str = "loss") -> Method:
    return Method("ewc", {"strength": strength}, regularizer=lambda: EWC(strength), mode=mode)


def l2sp(strength: float = 1.0, mode: str = "loss") -> Method:
    return Method("l2sp", {"strength": strength}, regularizer=lambda: L2SP(strength), mode=mode)


def recipe(method: Method | None = None, scenario: str = "task", *, pretrained: bool = False, **fields: Any) -> Recipe:
    """Two epochs of five steps a task."""
    fields = {"network": network, "rate": 0.1, "momentum": 0.9, "epochs": 2, "batch": 10, "every": 4,
              "pretraining_epochs": 3, **fields}
    return Recipe(sequence(scenario, pretrained=pretrained), method or Method("finetune"), **fields)


def situation(inputs: torch.Tensor, steps: int = 10) -> Situation:
    """That of the second task, with these inputs."""
    first, second, _ = sequence()
    return Situation(second, (first,), inputs, (first.outputs, second.outputs), steps, len(inputs), {})
