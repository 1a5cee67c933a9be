"""Positive semi-definite matrices over named parameters: how much each direction of weight space matters."""

from forgetting.curvature.anchored import Anchored
from forgetting.curvature.base import Curvature, NotFinite, restored
from forgetting.curvature.blocks import Block
from forgetting.curvature.diagonal import Diagonal
from forgetting.curvature.factors import Eigen, Factors
from forgetting.curvature.identity import Identity
from forgetting.curvature.kronecker import Kronecker

__all__ = ["Anchored", "Block", "Curvature", "Diagonal", "Eigen", "Factors", "Identity", "Kronecker", "NotFinite",
           "restored"]
