"""Every method by name, and methods of one's own."""

from forgetting.methods.loading import load
from forgetting.methods.registry import describe, get, names, suggested, suggested_recipe

__all__ = ["describe", "get", "load", "names", "suggested", "suggested_recipe"]
