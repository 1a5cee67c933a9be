"""Penalties in weight space: one quadratic, different matrices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from forgetting.protocol import Method
from forgetting.regularizers import EWC, L2SP, MAS, SI, Regularizer, RWalk


def ewc(*, strength: float = 30.0, labels: str = "exact", anchors: str = "latest", decay: float = 1.0,
        examples: int | None = None, normalize: str = "none", mode: str = "gradient") -> Method:
    """Elastic weight consolidation: a pull back, weight by weight as its Fisher information says."""
    settings = {"strength": strength, "labels": labels, "anchors": anchors, "decay": decay, "examples": examples,
                "normalize": normalize}
    return regularized("ewc", EWC, settings, mode)


def l2sp(*, strength: float = 0.1, mode: str = "gradient") -> Method:
    """L2-SP: the same pull back to the starting point for every weight."""
    return regularized("l2sp", L2SP, {"strength": strength}, mode)


def si(*, strength: float = 1.0, damping: float = 1e-3, decay: float = 1.0, mode: str = "gradient") -> Method:
    """Synaptic intelligence: a pull back, weight by weight as each made the loss fall on its way."""
    return regularized("si", SI, {"strength": strength, "damping": damping, "decay": decay}, mode)


def mas(*, strength: float = 1.0, decay: float = 1.0, examples: int | None = None, mode: str = "gradient") -> Method:
    """Memory aware synapses: a pull back, weight by weight as the outputs move with it."""
    return regularized("mas", MAS, {"strength": strength, "decay": decay, "examples": examples}, mode)


def rwalk(*, strength: float = 1.0, interval: int = 10, damping: float = 1e-3, decay: float = 0.5,
          examples: int | None = None, mode: str = "gradient") -> Method:
    """Riemannian walk: a pull back by the Fisher information plus what each weight did for the loss on its way."""
    settings = {"strength": strength, "interval": interval, "damping": damping, "decay": decay, "examples": examples}
    return regularized("rwalk", RWalk, settings, mode)


def ewc_dr(*, strength: float = 1.0, anchors: str = "latest", decay: float = 1.0, examples: int | None = None,
           mode: str = "gradient") -> Method:
    """EWC with reversed logits: importances that do not vanish where the model is sure."""
    settings = {"strength": strength, "labels": "reversed", "anchors": anchors, "decay": decay, "examples": examples}
    return regularized("ewc-dr", EWC, settings, mode)


def regularized(name: str, regularizer: Callable[..., Regularizer], settings: dict[str, Any], mode: str) -> Method:
    """A method of one regularizer, made once here so that wrong settings show at once."""
    regularizer(**settings)
    return Method(name, settings, regularizer=lambda: regularizer(**settings), mode=mode)
