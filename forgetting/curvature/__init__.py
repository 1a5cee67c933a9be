"""Positive semi-definite matrices over named parameters: how much each direction of weight space matters."""

from forgetting.curvature.base import Curvature, restored
from forgetting.curvature.diagonal import Diagonal
from forgetting.curvature.identity import Identity

__all__ = ["Curvature", "Diagonal", "Identity", "restored"]
