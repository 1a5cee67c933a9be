"""Synaptic intelligence as released code trains it, with clipped gradients: to reproduce figures, not to use."""

from __future__ import annotations

from torch import nn

from forgetting.protocol import Method
from forgetting.regularizers import SI
from forgetting.regularizers.steps import Action, Step


class ClippedSI(SI):
    """SI whose path is that of the total gradient, the pull within, each element of it clipped to [−1, 1].

    The optimizer steps with that gradient, too, from the first task on. Mode ``"gradient"`` only.

    **Reference**: the code of Buzzega et al. 2020, arXiv 2004.07211. **Differs**: nothing: −g·Δθ is the rate times g²
    for the plain SGD that they train with.
    """

    def _actions(self, model: nn.Module, mode: str) -> dict[str, Action]:
        if mode != "gradient":
            raise ValueError(f"mode is {mode!r}; this path is told from a gradient that holds the pull: 'gradient'")
        actions = super()._actions(model, mode)
        listen, pull = actions.pop("listen"), actions["pull"]

        def clip(step: Step) -> None:
            pull(step)
            for group in step.optimizer.param_groups:
                nn.utils.clip_grad_value_(group["params"], 1)
            listen(step)

        return {**actions, "pull": clip}


def clipped_si(strength: float, damping: float) -> Method:
    """SI with clipped gradients, the penalty's within."""
    return Method("clipped-si", {"strength": strength, "damping": damping}, mode="gradient",
                  regularizer=lambda: ClippedSI(strength, damping=damping))
