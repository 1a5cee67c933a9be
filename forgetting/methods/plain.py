"""What every table has beside the methods: fine-tuning, a smaller rate, the ceiling."""

from __future__ import annotations

from forgetting.protocol import Method


def finetune() -> Method:
    """Plain fine-tuning: nothing is kept on purpose."""
    return Method("finetune")


def small_rate(*, rate: float = 0.1) -> Method:
    """Fine-tuning at a fraction of the rate."""
    return Method("small-rate", {"rate": rate}, rate=rate)


def joint(*, rate: float = 1.0) -> Method:
    """Training on all tasks so far, old data included: the ceiling."""
    return Method("joint", {"rate": rate}, joint=True, rate=rate)
