"""Figures: matplotlib without pyplot, inline SVG for the page, files for a README. Needs the extra ``report``."""

from forgetting.report.plots.drawing import inline, look, write
from forgetting.report.plots.figures import (
    layer_drift,
    leading,
    looks_of,
    matrices,
    retention_adaptation,
    while_learning,
)
from forgetting.report.plots.losses import (
    PLAIN,
    Moved,
    Repaired,
    forgotten,
    over_layers_of,
    reliability,
    repair_bars,
    repaired,
)
from forgetting.report.plots.nearness import scatter
from forgetting.report.plots.ranks import ranks
from forgetting.report.plots.swept import fronts, over_strength

__all__ = ["PLAIN", "Moved", "Repaired", "forgotten", "fronts", "inline", "layer_drift", "leading", "look", "looks_of",
           "matrices", "over_layers_of", "over_strength", "ranks", "reliability", "repair_bars", "repaired",
           "retention_adaptation", "scatter", "while_learning", "write"]
