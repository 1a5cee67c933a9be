"""The Fisher information of a model's outputs, estimated from data; always a mean over examples."""

from forgetting.fisher.batches import Batch, Forward
from forgetting.fisher.estimate import LABELS, diagonal
from forgetting.fisher.likelihoods import Bernoulli, Categorical, CausalLanguageModel, Gaussian, Likelihood

__all__ = ["LABELS", "Batch", "Bernoulli", "Categorical", "CausalLanguageModel", "Forward", "Gaussian", "Likelihood",
           "diagonal"]
