"""Does transfer pay? Fine-tuning against training from scratch and a linear probe, over shares of the labels.

Three arms with the same labels, the same order of examples and the same number of optimizer steps. Figures are drawn
by ``forgetting.transfer.figures``, which needs matplotlib.
"""

from forgetting.transfer.arms import Arm, Budget, arms
from forgetting.transfer.reading import Difference, Estimate, Saved, Time, accuracy, difference, labels_saved, time_to
from forgetting.transfer.runs import Run
from forgetting.transfer.study import Chosen, Study, measure
from forgetting.transfer.subsets import nested

__all__ = ["Arm", "Budget", "Chosen", "Difference", "Estimate", "Run", "Saved", "Study", "Time", "accuracy", "arms",
           "difference", "labels_saved", "measure", "nested", "time_to"]
