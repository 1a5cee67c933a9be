"""Pull each layer back as hard as its weights are small on the average: a whole method, in a file outside the package.

    forgetting run digits-transfer --methods finetune,docs/examples/my_regularizer.py:MyRegularizer --seeds 3 --out mine
"""

from forgetting.curvature import Identity
from forgetting.parameters import named
from forgetting.regularizers import QuadraticRegularizer


class MyRegularizer(QuadraticRegularizer):
    """½·strength·Σ s‖θ−θ*‖² with s = 1 / (mean of θ*², plus a little), a number a tensor."""

    needs_data = False

    def __init__(self, strength: float = 0.01) -> None:
        super().__init__(strength)

    def estimate(self, model, data, outputs):
        """The matrix of what the model has just learned: here from its weights alone."""
        weights = named(model, self.parameters)
        return Identity({name: 1 / (weight.square().mean().item() + 1e-3) for name, weight in weights.items()})
