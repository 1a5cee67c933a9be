"""Fine-tune a pretrained torch model, keep what it knew, and measure both."""

from forgetting import (
    adapters,
    averaging,
    curvature,
    fisher,
    methods,
    protocol,
    rates,
    regularizers,
    rehearsal,
    similarity,
    tasks,
)
from forgetting.adapters import ProductEWC, lora
from forgetting.averaging import ExponentialAverage, PeriodicMerge, fisher_merge, interpolate, wise_ft
from forgetting.curvature import Curvature, Diagonal, Identity
from forgetting.freezing import freeze, freeze_important, gradual_unfreezing, lp_ft
from forgetting.norms import still
from forgetting.parameters import Handle, evaluating
from forgetting.protocol import Method, Monitor, Recipe, Result, Store, run
from forgetting.rates import layerwise_decay, rewarm, slanted_triangular, warmup_cosine, warmup_stable_decay
from forgetting.regularizers import (
    DELTA,
    EWC,
    KL,
    L2SP,
    MAS,
    SI,
    BatchSpectralShrinkage,
    FeatureL2,
    LwF,
    QuadraticRegularizer,
    Regularizer,
    RWalk,
)
from forgetting.rehearsal import AGEM, DER, Memory, ProxyReplay, Replay
from forgetting.tasks import Examples, Task, TaskSequence

__version__ = "0.1.0"

__all__ = [
    "AGEM", "DELTA", "DER", "EWC", "KL", "L2SP", "MAS", "SI", "BatchSpectralShrinkage", "Curvature", "Diagonal",
    "Examples", "ExponentialAverage", "FeatureL2", "Handle", "Identity", "LwF", "Memory", "Method", "Monitor",
    "PeriodicMerge", "ProductEWC", "ProxyReplay", "QuadraticRegularizer", "RWalk", "Recipe", "Regularizer", "Replay",
    "Result", "Store", "Task", "TaskSequence", "adapters", "averaging", "curvature", "evaluating", "fisher",
    "fisher_merge", "freeze", "freeze_important", "gradual_unfreezing", "interpolate", "layerwise_decay", "lora",
    "lp_ft", "methods", "protocol", "rates", "regularizers", "rehearsal", "rewarm", "run", "similarity",
    "slanted_triangular", "still", "tasks", "warmup_cosine", "warmup_stable_decay", "wise_ft",
]
