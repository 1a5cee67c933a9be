"""How well a classifier can tell which of two tasks an example came from."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from forgetting.similarity.rows import features_of, same_width


def proxy_a_distance(one: Tensor, other: Tensor, *, generator: torch.Generator | None = None) -> float:
    r"""The proxy A-distance: how well a linear classifier tells the two samples apart on held-out examples.

    .. math:: \hat d_A = 2\,(1 - 2\varepsilon)

    ε is the error of a logistic regression on the half of the examples that it did not learn from, the mean of the two
    samples' own errors, so that samples of unequal size are no easier to tell apart.

    **High means farther.** Range [−2, 2]: 2 where all are told apart, 0 where the classifier guesses, below it by
    chance alone. A step is about 4/n.

    Args:
        one: [m, d] floating.
        other: [n, d] floating, features of the same module.
        generator: draws the halves; a fresh one with seed 0 by default.

    Raises:
        ValueError: fewer than 2 examples in a sample, other numbers of features, numbers that are not finite.

    **Cost**: some tens to hundreds of passes over half of the (m + n)·d features, in scipy's L-BFGS.

    **Reference**: Ben-David et al. 2007, Analysis of Representations for Domain Adaptation. **Differs**: logistic
    loss where the paper has Huber's, on standardised features, plus ½‖w‖² over the number of training examples, which
    fixes the regression where the halves are separable; balanced errors.

    Example:
        >>> x = torch.arange(20.0).unsqueeze(1) % 5
        >>> proxy_a_distance(x, x + 10)
        2.0
    """
    x, y = features_of("the first sample", one), features_of("the second sample", other)
    same_width(x, y)
    generator = generator if generator is not None else torch.Generator().manual_seed(0)
    samples = [_shuffled(value, generator) for value in (x, y)]
    learned = [sample[: len(sample) // 2] for sample in samples]
    middle, scale = _standard(np.concatenate(learned))
    weights, bias = _logistic(*((sample - middle) / scale for sample in learned))
    scores = [(sample[len(sample) // 2 :] - middle) / scale @ weights + bias for sample in samples]
    errors = [_wrong(scores[0]), _wrong(-scores[1])]
    return float(2 * (1 - 2 * np.mean(errors)))


def _shuffled(values: Tensor, generator: torch.Generator) -> np.ndarray:
    """The rows in random order."""
    order = torch.randperm(len(values), generator=generator, device=generator.device)
    return values[order.to(values.device)].cpu().numpy()


def _standard(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation, 1 for what does not vary."""
    middle = values.mean(0)
    deviation = (values - middle).std(0)
    return middle, np.where(deviation > np.finfo(np.float64).eps * np.abs(middle), deviation, 1.0)


def _logistic(one: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, float]:
    """Weights and bias of the regression whose score is positive for the first sample; both weigh the same."""
    from scipy.optimize import minimize  # here, because it takes long to import

    inputs = np.concatenate([one, -other])
    signs = np.repeat([1.0, -1.0], [len(one), len(other)])
    shares = np.repeat([0.5 / len(one), 0.5 / len(other)], [len(one), len(other)])
    ridge = 1 / len(inputs)

    def loss(both: np.ndarray) -> tuple[float, np.ndarray]:
        weights, bias = both[:-1], both[-1]
        margins = inputs @ weights + signs * bias
        pulls = shares * np.exp(-np.logaddexp(0, margins))
        slope = np.append(ridge * weights - inputs.T @ pulls, -signs @ pulls)
        return float(shares @ np.logaddexp(0, -margins) + ridge / 2 * weights @ weights), slope

    found = minimize(loss, np.zeros(inputs.shape[1] + 1), jac=True, method="L-BFGS-B",
                     options={"maxiter": 2000, "maxfun": 4000, "gtol": 1e-7, "ftol": 1e-12})
    return found.x[:-1], float(found.x[-1])


def _wrong(scores: np.ndarray) -> float:
    """The share of scores that are not positive, a 0 counting half."""
    return float((scores < 0).mean() + (scores == 0).mean() / 2)
