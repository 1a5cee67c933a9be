"""Fine-tune a pretrained torch model, keep what it knew, and measure both."""

from forgetting import averaging, curvature, fisher, methods, protocol, rates, regularizers, tasks
from forgetting.averaging import interpolate, wise_ft
from forgetting.curvature import Curvature, Diagonal, Identity
from forgetting.freezing import freeze
from forgetting.norms import still
from forgetting.parameters import Handle, evaluating
from forgetting.protocol import Method, Monitor, Recipe, Result, Store, run
from forgetting.rates import layerwise_decay, slanted_triangular, warmup_cosine
from forgetting.regularizers import EWC, L2SP, QuadraticRegularizer, Regularizer
from forgetting.tasks import Examples, Task, TaskSequence

__version__ = "0.1.0"

__all__ = [
    "EWC", "L2SP", "Curvature", "Diagonal", "Examples", "Handle", "Identity", "Method", "Monitor",
    "QuadraticRegularizer", "Recipe", "Regularizer", "Result", "Store", "Task", "TaskSequence", "averaging",
    "curvature", "evaluating", "fisher", "freeze", "interpolate", "layerwise_decay", "methods", "protocol", "rates",
    "regularizers", "run", "slanted_triangular", "still", "tasks", "warmup_cosine", "wise_ft",
]
