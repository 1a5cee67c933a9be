"""Methods on the side of the loss: a scalar that grows as a model leaves what it knew."""

from forgetting.regularizers.base import Regularizer
from forgetting.regularizers.consolidated import Consolidated
from forgetting.regularizers.delta import DELTA
from forgetting.regularizers.ewc import EWC
from forgetting.regularizers.features import FeatureL2
from forgetting.regularizers.kl import KL
from forgetting.regularizers.l2sp import L2SP
from forgetting.regularizers.lwf import LwF
from forgetting.regularizers.mas import MAS
from forgetting.regularizers.quadratic import QuadraticRegularizer
from forgetting.regularizers.rwalk import RWalk
from forgetting.regularizers.shrinkage import BatchSpectralShrinkage
from forgetting.regularizers.si import SI

__all__ = ["DELTA", "EWC", "KL", "L2SP", "MAS", "SI", "BatchSpectralShrinkage", "Consolidated", "FeatureL2", "LwF",
           "QuadraticRegularizer", "RWalk", "Regularizer"]
