"""Methods on the side of the loss: a scalar that grows as a model leaves what it knew."""

from forgetting.regularizers.base import Regularizer
from forgetting.regularizers.consolidated import Consolidated
from forgetting.regularizers.ewc import EWC
from forgetting.regularizers.l2sp import L2SP
from forgetting.regularizers.quadratic import QuadraticRegularizer

__all__ = ["EWC", "L2SP", "Consolidated", "QuadraticRegularizer", "Regularizer"]
