"""The Fisher information of a model's outputs, estimated from data; always a mean over examples."""

from forgetting.fisher.batches import Batch, Forward
from forgetting.fisher.elementwise import Bernoulli, Gaussian
from forgetting.fisher.estimate import diagonal
from forgetting.fisher.kronecker import APPROXIMATIONS, kronecker
from forgetting.fisher.labels import LABELS
from forgetting.fisher.likelihoods import Categorical, CausalLanguageModel, Likelihood
from forgetting.fisher.moments import SHARING
from forgetting.fisher.portable import anchored
from forgetting.fisher.sensitivity import sensitivity

__all__ = ["APPROXIMATIONS", "LABELS", "SHARING", "Batch", "Bernoulli", "Categorical", "CausalLanguageModel", "Forward",
           "Gaussian", "Likelihood", "anchored", "diagonal", "kronecker", "sensitivity"]
