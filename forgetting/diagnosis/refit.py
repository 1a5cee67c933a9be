"""The source head, fitted anew on features that are held fixed."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

STEPS = 500


class Fitted(NamedTuple):
    """A multinomial logistic regression on standardised features.

    Args:
        weight: [features + 1, classes], the last row the bias.
        centre, scale: of the features.
        converged: whether L-BFGS ended by itself.
    """

    weight: Tensor
    centre: Tensor
    scale: Tensor
    converged: bool

    def answers(self, features: Tensor) -> Tensor:
        """The most probable class of each row."""
        return (_extended((features.double() - self.centre) / self.scale) @ self.weight).argmax(1)


def fit(features: Tensor, targets: Tensor, classes: int) -> Fitted:
    """Minimise mean cross-entropy + ‖W‖²/(2n), the bias free, by L-BFGS (scikit-learn's regression with C = 1).

    Args:
        features: [examples, features].
        targets: [examples], whole numbers below ``classes``.
        classes: how many.
    """
    from scipy import optimize  # here, because it takes as long to import as torch does

    wide = features.double()
    centre, scale = wide.mean(0), wide.std(0, correction=0)
    scale = torch.where(scale > 1e-12 * (1 + centre.abs()), scale, 1.0)
    rows = _extended((wide - centre) / scale)
    n, width = rows.shape
    wanted = torch.nn.functional.one_hot(targets.to(rows.device), classes).double()

    def objective(vector: np.ndarray) -> tuple[float, np.ndarray]:
        weight = torch.from_numpy(vector).to(rows.device).view(width, classes)
        ridge = torch.cat([weight[:-1] / n, torch.zeros_like(weight[-1:])])
        logs = torch.log_softmax(rows @ weight, 1)
        loss = -(logs * wanted).sum() / n + (ridge * weight).sum() / 2
        gradient = rows.T @ (logs.exp() - wanted) / n + ridge
        return float(loss), gradient.cpu().numpy().ravel()

    found = optimize.minimize(objective, np.zeros(width * classes), jac=True, method="L-BFGS-B",
                              options={"maxiter": STEPS, "maxfun": 2 * STEPS, "gtol": 1e-6})
    weight = torch.from_numpy(found.x).to(rows.device).view(width, classes)
    return Fitted(weight, centre, scale, bool(found.success))


def crossed(features: Tensor, targets: Tensor, classes: int, seed: int) -> tuple[Tensor, bool]:
    """Answers for every example by a head that did not see it: two halves, fitted on the one and tested on the other.

    Returns:
        The answers, and whether both fits converged.
    """
    half = halves(targets, seed)
    answers, converged = torch.empty_like(targets), True
    for tested in (half, ~half):
        head = fit(features[~tested], targets[~tested], classes)
        answers[tested] = head.answers(features[tested]).cpu()
        converged &= head.converged
    return answers, converged


def halves(targets: Tensor, seed: int) -> Tensor:
    """A mask of half of the examples, of each class half."""
    drawn = torch.randperm(len(targets), generator=torch.Generator().manual_seed(seed))
    order = drawn[targets[drawn].argsort(stable=True)]
    mask = torch.zeros(len(targets), dtype=torch.bool)
    mask[order[::2]] = True
    return mask


def _extended(rows: Tensor) -> Tensor:
    """Rows with a one behind them, for the bias."""
    return torch.cat([rows, torch.ones_like(rows[:, :1])], 1)
