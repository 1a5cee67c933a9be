"""Importances as other code computes them, where that is not what the library does: to reproduce, not to use."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from forgetting import fisher
from forgetting.curvature import Diagonal
from forgetting.fisher import Categorical
from forgetting.parameters import evaluating, named
from forgetting.regularizers import QuadraticRegularizer
from forgetting.regularizers.path import PathRegularizer


class ArgmaxEWC(QuadraticRegularizer):
    """EWC with the squared score of the label that the model itself gives an example (fault F10).

    **Reference**: the code of Hsu et al. 2018, arXiv 1810.12488. **Differs**: nothing.
    """

    def estimate(self, model: nn.Module, data: Any, outputs: Any) -> Diagonal:
        """Mean over examples of (∂ log p(ŷ|x))², ŷ the argmax among the task's columns."""
        columns = torch.tensor(list(outputs))

        def forward(model: nn.Module, batch: Any) -> tuple[Tensor, Tensor]:
            logits = model(batch[0])
            return logits, columns.to(logits.device)[logits[:, columns].argmax(dim=1)]

        return fisher.diagonal(model, data, labels="empirical", forward=forward, outputs=outputs)


class LabelShareEWC(QuadraticRegularizer):
    """EWC with the data's label's own term of the exact Fisher information: p(y|x) times the squared score.

    **Reference**: the code of Buzzega et al. 2020, arXiv 2004.07211. **Differs**: divides by the number of examples,
    where theirs divides by batches times batch size (60 000 by 60 032).
    """

    def estimate(self, model: nn.Module, data: Any, outputs: Any) -> Diagonal:
        """Mean over examples of p(y|x)·(∂ log p(y|x))², y the data's label."""
        return fisher.diagonal(model, data, labels="empirical", likelihood=_Share(), outputs=outputs)


class BatchMAS(QuadraticRegularizer):
    """MAS with the absolute gradient of a batch's mean squared logit: within a batch examples cancel each other.

    **Reference**: the code of Hsu et al. 2018, arXiv 1810.12488. **Differs**: nothing.
    """

    def estimate(self, model: nn.Module, data: Any, outputs: Any) -> Diagonal:
        """Mean over batches of |∂ mean over examples and logits of z²|."""
        weights, columns = named(model), torch.tensor(list(outputs))
        sums, batches = {name: torch.zeros_like(weight) for name, weight in weights.items()}, 0
        with evaluating(model):
            for inputs, _ in data:
                loss = model(inputs)[:, columns].square().mean()
                gradients = torch.autograd.grad(loss, list(weights.values()), materialize_grads=True)
                for total, gradient in zip(sums.values(), gradients, strict=True):
                    total += gradient.abs()
                batches += 1
        return Diagonal({name: total / batches for name, total in sums.items()})


class CappedSI(PathRegularizer):
    """SI whose importances are cut off above at 0.001 (fault F3).

    Args:
        strength: λ ≥ 0.
        damping: as SI's.

    **Reference**: the code of Avalanche 0.6. **Differs**: the path is that of the task's own gradient; what a task adds
    below 0 is left out.
    """

    def __init__(self, strength: float, damping: float = 0.1) -> None:
        super().__init__(strength)
        self.damping = damping

    def estimate(self, model: nn.Module, data: Any, outputs: Any) -> Diagonal:
        """What brings the sum over tasks to at most 0.001."""
        known = self.consolidated.curvature.diagonal() if self.consolidated is not None else {}
        found = {}
        for name, weight in self._walked(model).items():
            moved = weight.detach() - self._of("start", name, weight)
            integral = self._of("integral", name, weight)
            new = (integral / (moved.square() + self.damping)).clamp(min=0)
            before = known[name] if name in known else torch.zeros_like(new)
            found[name] = new.minimum((1e-3 - before).clamp(min=0))  # rounding may leave a sum above the cap
        return Diagonal(found)


class _Share(Categorical):
    """Classes, of whose data's label the score is weighted by the root of its probability."""

    def empirical(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """√p(y|x) · (e_y − p)."""
        share = outputs.softmax(dim=-1).gather(-1, targets.unsqueeze(-1))
        return super().empirical(outputs, targets) * share.sqrt()
