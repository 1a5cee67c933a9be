"""How fast which parameter learns: layer-wise decay as parameter groups, schedules as learning-rate schedulers."""

from forgetting.rates.layerwise import layerwise_decay
from forgetting.rates.restarts import rewarm
from forgetting.rates.schedules import slanted_triangular, warmup_cosine, warmup_stable_decay

__all__ = ["layerwise_decay", "rewarm", "slanted_triangular", "warmup_cosine", "warmup_stable_decay"]
