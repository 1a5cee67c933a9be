"""Weights between models: on a line, weighted by Fisher information, or averaged while they are trained."""

from forgetting.averaging.exponential import ExponentialAverage
from forgetting.averaging.interpolation import CURVE, interpolate, wise_ft
from forgetting.averaging.merging import fisher_merge
from forgetting.averaging.periodic import PeriodicMerge

__all__ = ["CURVE", "ExponentialAverage", "PeriodicMerge", "fisher_merge", "interpolate", "wise_ft"]
