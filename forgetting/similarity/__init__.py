"""How far apart two tasks are, told from features, labels and predictions before anything is trained."""

from forgetting.similarity.correlation import Correlation, correlations
from forgetting.similarity.divergences import frechet, mmd
from forgetting.similarity.evidence import logme
from forgetting.similarity.importance import fisher_distance
from forgetting.similarity.measuring import DIRECTIONS, measure
from forgetting.similarity.predictions import leep, nce
from forgetting.similarity.representations import cka
from forgetting.similarity.separation import h_score
from forgetting.similarity.telling import proxy_a_distance

__all__ = ["DIRECTIONS", "Correlation", "cka", "correlations", "fisher_distance", "frechet", "h_score", "leep",
           "logme", "measure", "mmd", "nce", "proxy_a_distance"]
