"""What a fine-tune lost, and where: two states of one network, compared on the data of the source task."""

from forgetting.diagnosis.comparing import compare
from forgetting.diagnosis.comparison import Bin, ClassDrop, Comparison, Figures, ModuleDrift, ParameterDrift, Recovery
from forgetting.diagnosis.ended import of_run
from forgetting.diagnosis.stored import load
from forgetting.diagnosis.tables import table

__all__ = [
    "Bin",
    "ClassDrop",
    "Comparison",
    "Figures",
    "ModuleDrift",
    "ParameterDrift",
    "Recovery",
    "compare",
    "load",
    "of_run",
    "table",
]
