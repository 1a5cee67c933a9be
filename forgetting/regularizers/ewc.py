"""Elastic weight consolidation: the diagonal Fisher says how hard each weight is held."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from forgetting import fisher
from forgetting.curvature import Curvature
from forgetting.parameters import Selection
from forgetting.regularizers.quadratic import QuadraticRegularizer

_INERT = 1e-12


class EWC(QuadraticRegularizer):
    """Holds each weight as hard as the source task's likelihood bends along it.

    ½·λ·Σ F_i(θ_i − θ*_i)², with F the diagonal of the Fisher information at θ*: the mean over examples of
    E_{y∼p(y|x,θ*)} (∂ log p(y|x,θ*)/∂θ_i)². Call ``consolidate(model, data)`` on a pretrained model before any
    training, and again after each task.

    Args:
        strength: λ ≥ 0. F is a mean over examples, so λ does not depend on their number or on the batch size.
            Beside a mean loss, the paper's posterior is λ = source examples ÷ target examples.
        labels: whose labels the Fisher takes: ``"exact"``, ``"sampled"``, ``"empirical"`` or ``"batched"``; see
            :func:`forgetting.fisher.diagonal`.
        decay: γ in [0, 1], the weight of the old matrix when a task is added (online EWC).
        anchors: ``"latest"``: the penalties of all tasks pull to the last task's weights; ``"separate"``: each to
            its own, at the memory and the time of one.
        parameters: patterns (or a function of the name) that say what is covered. Parameters that the model gains
            later are not held; one that vanishes or changes its shape is an error unless it is left out here.
        likelihood: what the outputs mean, see :mod:`forgetting.fisher`; ``None`` for classification.
        forward: ``(model, batch) -> (outputs, targets)`` for batches that are no ``(inputs, targets)`` pairs.
        examples: how many examples of ``data`` to use; ``None`` for all.
        seed: of the labels that are drawn with ``labels="sampled"``.

    Raises:
        ValueError: see :class:`~forgetting.regularizers.QuadraticRegularizer`.

    Warns:
        UserWarning: from ``consolidate``, where every importance is about 0 and nothing will be held.

    **Cost**: consolidation is one pass over ``data`` (exact labels: one backward a class). Memory: two copies of the
    parameters whatever the number of tasks (``anchors="separate"``: four). A step: two passes over them.

    **Reference**: Kirkpatrick et al. 2017 (arXiv 1612.00796), equation 3; Schwarz et al. 2018 (arXiv 1805.06370),
    section 4.2, for ``decay``; Huszár 2018 (arXiv 1712.03847) for tasks merged into one quadratic.
    **Differs**: F is a mean over examples and exact over labels unless told otherwise; Schwarz et al. also multiply
    the penalty by γ, here γ acts at consolidation only.

    Example:
        >>> from forgetting.curvature import Diagonal
        >>> model = nn.Linear(2, 1, bias=False)
        >>> ewc = EWC(strength=10.0)
        >>> ewc.consolidate(model, curvature=Diagonal({"weight": torch.tensor([[1.0, 0.0]])}))
        >>> model.weight.data += 1.0
        >>> round(ewc.penalty(model).item(), 4)
        5.0
    """

    def __init__(
        self,
        strength: float,
        *,
        labels: str = "exact",
        decay: float = 1.0,
        anchors: str = "latest",
        parameters: Selection = None,
        likelihood: Any = None,
        forward: Callable[..., Any] | None = None,
        examples: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(strength, decay=decay, anchors=anchors, parameters=parameters)
        if labels not in fisher.LABELS:
            raise ValueError(f"labels={labels!r} does not exist: choose one of {', '.join(fisher.LABELS)}")
        self.labels = labels
        self.likelihood = likelihood
        self.forward = forward
        self.examples = examples
        self.seed = seed

    def estimate(self, model: nn.Module, data: Any, outputs: Any) -> Curvature:
        """The diagonal Fisher of the data; each task draws its labels from a stream of its own."""
        tasks = self.consolidated.tasks if self.consolidated is not None else 0
        found = fisher.diagonal(
            model, data, labels=self.labels, likelihood=self.likelihood, forward=self.forward, outputs=outputs,
            parameters=self.parameters, examples=self.examples,
            generator=torch.Generator().manual_seed(self.seed + tasks),
        )
        if found.largest() < _INERT:
            warnings.warn(
                f"EWC is inert: its largest importance is {found.largest():.1e}, so no weight will be held. The model "
                "may be certain of every example (its gradients vanish), or the data may not be what it learned",
                stacklevel=3,
            )
        return found
