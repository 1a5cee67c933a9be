"""What one run says about transfer."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from forgetting.protocol import Result


@dataclass(frozen=True)
class Run:
    """One arm with one share of the labels and one seed.

    Args:
        arm: its name.
        share: of the labels, in (0, 1].
        labels: how many examples that is.
        seed: of weights, order and of which labels are kept.
        rate: which validation chose.
        accuracy: on test data at the end, in [0, 1].
        curve: (optimizer steps so far, accuracy on validation data), from 0 steps to the last.
        seconds: of training, without measuring.

    Example:
        >>> Run("scratch", 0.1, 50, 0, 0.01, 0.62, ((0, 0.1), (100, 0.6)), 4.0).steps
        100
    """

    arm: str
    share: float
    labels: int
    seed: int
    rate: float
    accuracy: float
    curve: tuple[tuple[int, float], ...]
    seconds: float

    @classmethod
    def of(cls, result: Result, arm: str, share: float, labels: int) -> Run:
        """What a result of :func:`forgetting.transfer.measure`'s recipes says: held-out part first, target second."""
        held, steps = result.tasks[0], result.recipe["steps"]
        inside = {entry["step"]: entry["accuracy"][held] for entry in result.steps if entry["task"] == 2}
        curve = {0: float(result.accuracy[0, 0]), **inside, steps: float(result.accuracy[2, 0])}
        return cls(arm, share, labels, result.seed, result.recipe["rate"], float(result.accuracy[2, 1]),
                   tuple(sorted(curve.items())), result.seconds_training)

    @property
    def steps(self) -> int:
        """Of the optimizer, in all."""
        return self.curve[-1][0]

    def as_data(self) -> dict[str, Any]:
        """Plain data, ready for JSON."""
        return {**dataclasses.asdict(self), "curve": [list(point) for point in self.curve]}

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Run:
        """The run that :meth:`as_data` described."""
        return cls(**{**data, "curve": tuple((int(step), float(value)) for step, value in data["curve"])})
