"""Penalties in function space: what the model computes is held to what it computed."""

from __future__ import annotations

from forgetting.methods.penalties import regularized
from forgetting.protocol import Method
from forgetting.regularizers import DELTA, KL, BatchSpectralShrinkage, FeatureL2, LwF


def lwf(*, strength: float = 0.25, temperature: float = 2.0) -> Method:
    """Learning without forgetting: the softened answers for the old tasks stay, on the new task's inputs."""
    return regularized("lwf", LwF, {"strength": strength, "temperature": temperature}, "loss")


def kl(*, strength: float = 1.0, direction: str = "forward", masked: str | None = None) -> Method:
    """KL to the model before: its predictions stay, on the new task's inputs."""
    return regularized("kl", KL, {"strength": strength, "direction": direction, "masked": masked}, "loss")


def feature_l2(*, strength: float = 1.0) -> Method:
    """Feature distillation: what the blocks give out stays, on the new task's inputs."""
    return regularized("feature-l2", FeatureL2, {"strength": strength}, "loss")


def delta(*, strength: float = 1.0, examples: int | None = 256) -> Method:
    """DELTA: features stay, the more a channel the more the loss needs it."""
    return regularized("delta", DELTA, {"strength": strength, "examples": examples}, "loss")


def batch_spectral_shrinkage(*, strength: float = 0.001, smallest: int = 1) -> Method:
    """Batch spectral shrinkage: the weakest directions among a batch's features go; for the target's sake."""
    settings = {"strength": strength, "smallest": smallest}
    return regularized("batch-spectral-shrinkage", BatchSpectralShrinkage, settings, "loss")
