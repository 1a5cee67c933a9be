"""Hold the first layers hardest: a whole method, in a file outside the package.

    forgetting run digits-transfer --methods finetune,docs/examples/my_regularizer.py:MyRegularizer --seeds 3 --out mine
"""

from forgetting.curvature import Identity
from forgetting.parameters import named
from forgetting.regularizers import QuadraticRegularizer


class MyRegularizer(QuadraticRegularizer):
    """½·strength·Σ s‖θ−θ*‖², where s falls from 1 at the first parameter towards 0 at the last."""

    needs_data = False

    def __init__(self, strength: float = 0.03) -> None:
        super().__init__(strength)

    def estimate(self, model, data, outputs):
        """The matrix of what the model has just learned: here from the order of its parameters alone."""
        names = list(named(model, self.parameters))
        return Identity({name: 1 - index / len(names) for index, name in enumerate(names)})
