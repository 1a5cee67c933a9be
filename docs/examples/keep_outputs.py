"""Keep what each linear layer gives out: a regularizer that a tutorial derives, tests and compares."""

import torch

from forgetting.curvature import Diagonal
from forgetting.parameters import evaluating, named
from forgetting.regularizers import QuadraticRegularizer


class KeepOutputs(QuadraticRegularizer):
    """½·strength·Σ F(θ−θ*)²; F of a linear layer's weight [i, j] is the mean of its input j squared, all else is 1."""

    def estimate(self, model, data, outputs):
        """The matrix of what the model has just learned, from one pass over the data."""
        layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, torch.nn.Linear)}
        heard = {name: [] for name in layers}
        handles = [layer.register_forward_pre_hook(lambda _, given, name=name: heard[name].append(given[0].square()))
                   for name, layer in layers.items()]
        with evaluating(model), torch.no_grad():
            for inputs, _ in data:
                model(inputs)
        for handle in handles:
            handle.remove()
        squares = {f"{name}.weight": torch.cat(heard[name]).mean(0) for name in layers}
        return Diagonal({name: torch.ones_like(weights) * squares.get(name, 1.0)
                         for name, weights in named(model, self.parameters).items()})
