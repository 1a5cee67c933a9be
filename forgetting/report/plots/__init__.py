"""Figures: matplotlib without pyplot, inline SVG for the page, files for a README. Needs the extra ``report``."""

from forgetting.report.plots.drawing import inline, look, write
from forgetting.report.plots.figures import layer_drift, matrices, retention_adaptation, while_learning

__all__ = ["inline", "layer_drift", "look", "matrices", "retention_adaptation", "while_learning", "write"]
