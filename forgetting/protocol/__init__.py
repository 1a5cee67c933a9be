"""Learn tasks in order, test on all of them: recipe, run, result, and what is computed from results."""

from forgetting.protocol import metrics, statistics
from forgetting.protocol.method import Method
from forgetting.protocol.recipe import Recipe
from forgetting.protocol.result import Result

__all__ = ["Method", "Recipe", "Result", "metrics", "statistics"]
