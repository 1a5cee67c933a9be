"""Whose labels: which vectors over a batch's outputs are sent back."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from forgetting.curvature import NotFinite
from forgetting.fisher.columns import Columns
from forgetting.fisher.likelihoods import Categorical, Likelihood, infer

LABELS = ("exact", "signed", "sampled", "empirical", "reversed", "batched")
_IGNORED = -1  # no column has this number, whatever ignore_index the data uses


@dataclass
class Labels:
    """Turns outputs and targets into the cotangents whose backwards are squared.

    Args:
        kind: one of :data:`LABELS`.
        likelihood: what the outputs mean; ``None`` where it can be told.
        columns: of the outputs that belong to the task; ``None`` for all.
        tolerance: the share of the predictive trace that may be dropped.
        generator: draws for ``"sampled"`` and ``"signed"``.
    """

    kind: str
    likelihood: Likelihood | None
    columns: Tensor | None
    tolerance: float
    generator: torch.Generator
    _last: int = field(init=False)

    def __post_init__(self) -> None:
        if self.likelihood is not None and not isinstance(self.likelihood, Likelihood):
            raise TypeError(f"likelihood= takes one of forgetting.fisher, such as Categorical() or "
                            f"CausalLanguageModel(), got {self.likelihood!r}")
        self._last = -1 if self.columns is None else int(self.columns.max())

    def restricted(self, outputs: Tensor) -> Tensor:
        """The task's columns."""
        if self.columns is None:
            return outputs
        if self._last >= outputs.shape[-1]:
            raise ValueError(f"outputs= names column {self._last}, the model gives {outputs.shape[-1]}")
        return outputs.index_select(-1, self.columns.to(outputs.device))

    def cotangents(self, outputs: Tensor, targets: Tensor) -> list[Tensor] | Columns:
        """The vectors v with F = Σ (Jᵀv)², each of the outputs' shape."""
        likelihood, targets = self._checked(outputs, targets)
        if self.kind == "exact":
            if self.tolerance:
                return likelihood.largest(outputs, targets, self.tolerance)
            return list(likelihood.exact(outputs, targets))
        if self.kind == "signed":
            return list(likelihood.signed(outputs, targets, self.generator))
        if self.kind == "sampled":
            return [likelihood.sampled(outputs, targets, self.generator)]
        if self.kind == "reversed":
            return [_reversed(likelihood, outputs, targets)]
        return [likelihood.empirical(outputs, targets)]

    def _checked(self, outputs: Tensor, targets: Tensor) -> tuple[Likelihood, Tensor]:
        """The likelihood, and the targets as it takes them; raises where they do not fit."""
        finite(outputs)
        if targets.is_floating_point() and not torch.isfinite(targets).all():
            raise ValueError("the targets are not finite, so the loss is not; check the data before consolidating")
        if targets.ndim == 0 or len(targets) != len(outputs):
            raise ValueError(
                f"outputs of shape {tuple(outputs.shape)} and targets of shape {tuple(targets.shape)} must both have "
                "the examples in their first dimension"
            )
        targets = targets.to(outputs.device)
        likelihood = self.likelihood or infer(outputs, targets)
        if isinstance(likelihood, Categorical):
            likelihood.check_kind(targets)
            targets = self._local(targets, outputs, likelihood.ignore_index)
            likelihood = likelihood.ignoring(_IGNORED)
        likelihood.check(outputs, targets)
        return likelihood, targets

    def _local(self, targets: Tensor, outputs: Tensor, ignore_index: int) -> Tensor:
        """Labels as positions within the task's columns, what is ignored as −1; a label outside them raises."""
        targets = targets.long()
        if self.columns is None and targets.numel():
            least, most = torch.aminmax(targets)
            if least >= 0 and most < outputs.shape[-1] and not least <= ignore_index <= most:
                return targets
        ignored = targets == ignore_index
        columns = self.columns if self.columns is not None else torch.arange(outputs.shape[-1])
        columns = columns.to(targets.device)
        outside = ~(torch.isin(targets, columns) | ignored)
        if outside.any():
            raise ValueError(
                f"labels outside the outputs: {sorted(set(targets[outside].tolist()))[:8]} with the columns "
                f"{_shown(columns.tolist())}; targets are column numbers of the model's full outputs, also where "
                "outputs= names a task's columns"
            )
        lookup = targets.new_zeros(int(columns.max()) + 1)
        lookup[columns] = torch.arange(len(columns), device=targets.device)
        return lookup[targets.masked_fill(ignored, int(columns[0]))].masked_fill(ignored, _IGNORED)


def finite(outputs: Tensor) -> None:
    """Raise where an output is not finite."""
    if outputs.numel() and not all(math.isfinite(end.item()) for end in torch.aminmax(outputs)):
        raise NotFinite("the model's outputs are not finite; check the weights and the data before consolidating")


def _reversed(likelihood: Likelihood, outputs: Tensor, targets: Tensor) -> Tensor:
    """The score of the data's own targets at the outputs with the other sign: e_label − softmax(−z)."""
    if not isinstance(likelihood, Categorical):
        raise ValueError(f'labels="reversed" turns the sign of the scores of classes; {type(likelihood).__name__} has '
                         'none: use labels="exact"')
    return likelihood.empirical(-outputs, targets)


def _shown(columns: list[int]) -> str:
    return str(columns) if len(columns) <= 12 else f"{columns[0]}…{columns[-1]}"
