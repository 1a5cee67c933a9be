"""The Fisher information of a model's outputs, estimated from data; always a mean over examples."""

from forgetting.fisher.batches import Batch, Forward
from forgetting.fisher.estimate import diagonal
from forgetting.fisher.kronecker import kronecker
from forgetting.fisher.labels import LABELS
from forgetting.fisher.likelihoods import Bernoulli, Categorical, CausalLanguageModel, Gaussian, Likelihood

__all__ = ["LABELS", "Batch", "Bernoulli", "Categorical", "CausalLanguageModel", "Forward", "Gaussian", "Likelihood",
           "diagonal", "kronecker"]
