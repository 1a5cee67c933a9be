"""Low-rank adapters: what learns in place of the weights, and penalties on what the weights become."""

from forgetting.adapters.lora import lora
from forgetting.adapters.product import ProductEWC

__all__ = ["ProductEWC", "lora"]
