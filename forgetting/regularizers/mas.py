"""Memory aware synapses: a weight is held as hard as the outputs move with it, whatever the labels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from forgetting import fisher
from forgetting.curvature import Curvature
from forgetting.parameters import Selection
from forgetting.regularizers.quadratic import QuadraticRegularizer


class MAS(QuadraticRegularizer):
    """Holds each weight by how far the squared norm of the outputs moves with it. Labels are not needed.

    ½·λ·Σ F_i(θ_i − θ*_i)² with F_i the mean over examples of the absolute value of ∂‖f(x)‖²/∂θ_i at θ*, f the logits of
    the task's columns.
    Any inputs serve, those of the target task or unlabelled ones too. Call ``consolidate(model, data)`` on a pretrained
    model before any training, and again after each task; F adds up (``decay=1``).

    Args:
        strength: λ ≥ 0; the paper's multiplies without the ½, so λ = 2·theirs. F has the units of squared logits over
            weights, not of a log-likelihood: strengths of EWC do not carry over.
        decay: γ in [0, 1], the weight of the old matrix when a task is added.
        anchors: ``"latest"`` (the paper's) or ``"separate"``, see
            :class:`~forgetting.regularizers.QuadraticRegularizer`.
        parameters: patterns (or a function of the name) that say what is covered.
        forward: ``(model, batch) -> (outputs, anything)`` for batches of another shape, see
            :func:`forgetting.fisher.sensitivity`.
        examples: how many examples of ``data`` to use; ``None`` for all.
        storage: in how many bits anchor and importance are kept, likewise.
        offload: keep them in the CPU's memory, likewise.
        normalize: ``"mean"`` or ``"trace"``: divide each task's matrix by that, likewise.

    Raises:
        ValueError: see :class:`~forgetting.regularizers.QuadraticRegularizer`.

    Warns:
        UserWarning: from ``consolidate``, where every importance is about 0 and nothing will be held.

    **Cost**: consolidation is one pass over ``data`` with one backward, in eval mode (fault F6). Memory: two copies of
    the parameters whatever the number of tasks (``anchors="separate"``: four). A step: one pass over them.

    **Reference**: Aljundi et al. 2018 (arXiv 1711.09601), section 4, with the squared norm of the outputs.
    **Differs**: the absolute value is taken of each example's gradient, as in the equation, not of a batch's mean
    gradient, in which examples cancel. All layers are covered by the one backward of the outputs (the paper's global
    version, not its layer-wise one).

    Example:
        >>> import torch
        >>> model = nn.Linear(2, 1, bias=False)
        >>> _ = nn.init.constant_(model.weight, 0.5)
        >>> mas = MAS(strength=2.0)
        >>> mas.consolidate(model, [torch.tensor([[2.0, 0.0]])])
        >>> model.weight.data += 1.0
        >>> mas.penalty(model).item()
        4.0
    """

    def __init__(
        self,
        strength: float,
        *,
        decay: float = 1.0,
        anchors: str = "latest",
        parameters: Selection = None,
        forward: Callable[..., Any] | None = None,
        examples: int | None = None,
        storage: str = "float32",
        offload: bool = False,
        normalize: str = "none",
    ) -> None:
        super().__init__(strength, decay=decay, anchors=anchors, parameters=parameters, storage=storage,
                         offload=offload, normalize=normalize)
        self.forward = forward
        self.examples = examples

    def estimate(self, model: nn.Module, data: Any, outputs: Any) -> Curvature:
        """How far the outputs move with each weight; targets in ``data`` are not read."""
        return fisher.sensitivity(model, data, forward=self.forward, outputs=outputs, parameters=self.parameters,
                                  examples=self.examples)
