"""Elastic weight consolidation: the Fisher information says how hard each weight, or each direction, is held."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from forgetting import fisher
from forgetting.curvature import Curvature
from forgetting.parameters import Selection
from forgetting.regularizers.quadratic import QuadraticRegularizer

CURVATURES = ("diagonal", "kronecker")


class EWC(QuadraticRegularizer):
    """Holds each weight as hard as the source task's likelihood bends along it.

    ½·λ·Σ F_i(θ_i − θ*_i)², with F the diagonal of the Fisher information at θ*: the mean over examples of
    E_{y∼p(y|x,θ*)} (∂ log p(y|x,θ*)/∂θ_i)². Call ``consolidate(model, data)`` on a pretrained model before any
    training, and again after each task.

    Args:
        strength: λ ≥ 0. F is a mean over examples, so λ does not depend on their number or on the batch size.
            Beside a mean loss, the paper's posterior is λ = source examples ÷ target examples.
        labels: whose labels the Fisher takes: ``"exact"``, ``"signed"``, ``"sampled"``, ``"empirical"``,
            ``"reversed"`` (EWC-DR: importances that do not vanish where the model is sure) or ``"batched"``; see
            :func:`forgetting.fisher.diagonal`.
        decay: γ in [0, 1], the weight of the old matrix when a task is added (online EWC).
        anchors: ``"latest"``: the penalties of all tasks pull to the last task's weights; ``"separate"``: each to
            its own, at the memory and the time of one.
        parameters: patterns (or a function of the name) that say what is covered. Parameters that the model gains
            later are not held; one that vanishes or changes its shape is an error unless it is left out here.
        curvature: ``"diagonal"``, or ``"kronecker"``: by layers, so that changes of a layer's weights that make up for
            each other stay free (K-FAC, see :func:`forgetting.fisher.kronecker`; ``anchors="latest"`` only). For other
            settings of it, give ``consolidate`` the matrix.
        likelihood: what the outputs mean, see :mod:`forgetting.fisher`; ``None`` for classification.
        forward: ``(model, batch) -> (outputs, targets)`` for batches that are no ``(inputs, targets)`` pairs.
        examples: how many examples of ``data`` to use; ``None`` for all.
        seed: of what is drawn with ``labels="sampled"`` and ``"signed"``.
        storage: in how many bits the anchor and the importance are kept, see
            :class:`~forgetting.regularizers.QuadraticRegularizer`.
        offload: keep them in the CPU's memory, likewise.
        normalize: ``"mean"`` or ``"trace"``: divide each task's matrix by that, so that λ means the same for every
            kind of label and every model; likewise.

    Raises:
        ValueError: for labels or a curvature of another name, for ``"kronecker"`` with separate anchors or batched
            labels; see also :class:`~forgetting.regularizers.QuadraticRegularizer`.

    Warns:
        UserWarning: from ``consolidate``, where every importance is about 0 and nothing will be held.

    **Cost**: consolidation is one pass over ``data`` (exact labels: one backward a class). Memory: two copies of the
    parameters whatever the number of tasks (``anchors="separate"``: four). A step: one pass over them. With
    ``"kronecker"`` inputs² + outputs² numbers a layer in place of one copy, and their products with it a step.

    **Reference**: Kirkpatrick et al. 2017 (arXiv 1612.00796), equation 3; Schwarz et al. 2018 (arXiv 1805.06370),
    section 4.2, for ``decay``; Huszár 2018 (arXiv 1712.03847) for tasks merged into one quadratic; Ritter et al. 2018
    (arXiv 1805.07810) for Kronecker factors; Liu and Chang 2026 (arXiv 2603.18596) for reversed logits.
    **Differs**: F is a mean over examples and exact over labels unless told otherwise; Schwarz et al. also multiply
    the penalty by γ, here γ acts at consolidation only. Two tasks' Kronecker products do not add up to one; the nearest
    is kept, and ``consolidated.curvature.errors`` says how near. Importances from reversed logits are not cut off from
    above, as the authors' code does (fault F3).

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
        curvature: str = "diagonal",
        parameters: Selection = None,
        likelihood: Any = None,
        forward: Callable[..., Any] | None = None,
        examples: int | None = None,
        seed: int = 0,
        storage: str = "float32",
        offload: bool = False,
        normalize: str = "none",
    ) -> None:
        super().__init__(strength, decay=decay, anchors=anchors, parameters=parameters,
                         storage=storage, offload=offload, normalize=normalize)
        if labels not in fisher.LABELS:
            raise ValueError(f"labels={labels!r} does not exist: choose one of {', '.join(fisher.LABELS)}")
        if curvature not in CURVATURES:
            raise ValueError(f"curvature={curvature!r} does not exist: choose one of {', '.join(CURVATURES)}; a matrix "
                             "is given to consolidate(curvature=...)")
        if curvature == "kronecker" and anchors == "separate":
            raise ValueError('curvature="kronecker" needs anchors="latest": separate anchors merge without loss only '
                             "on a diagonal")
        if curvature == "kronecker" and labels == "batched":
            raise ValueError('curvature="kronecker" needs labels="exact", "signed", "sampled" or "empirical": the '
                             "gradient of a whole batch has no factors")
        self.labels = labels
        self.curvature = curvature
        self.likelihood = likelihood
        self.forward = forward
        self.examples = examples
        self.seed = seed

    def estimate(self, model: nn.Module, data: Any, outputs: Any) -> Curvature:
        """The Fisher information of the data; each task draws its labels from a stream of its own."""
        tasks = self.consolidated.tasks if self.consolidated is not None else 0
        return (fisher.kronecker if self.curvature == "kronecker" else fisher.diagonal)(
            model, data, labels=self.labels, likelihood=self.likelihood, forward=self.forward, outputs=outputs,
            parameters=self.parameters, examples=self.examples,
            generator=torch.Generator().manual_seed(self.seed + tasks),
        )
