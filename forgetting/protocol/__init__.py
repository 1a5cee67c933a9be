"""Learn tasks in order, test on all of them: recipe, run, result, and what is computed from results."""

from forgetting.protocol import metrics, statistics
from forgetting.protocol.forecast import Forecast, forecast
from forgetting.protocol.logbook import Diverged
from forgetting.protocol.method import Method, Situation, combine
from forgetting.protocol.monitor import Monitor
from forgetting.protocol.recipe import Recipe
from forgetting.protocol.result import Result
from forgetting.protocol.run import run
from forgetting.protocol.store import Store

__all__ = ["Diverged", "Forecast", "Method", "Monitor", "Recipe", "Result", "Situation", "Store", "combine", "forecast",
           "metrics", "run", "statistics"]
