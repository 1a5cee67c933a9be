"""What a source classifier's predictions tell of the target's labels."""

from __future__ import annotations

import torch
from torch import Tensor

from forgetting.similarity.rows import classes_of, probabilities_of, target_classes


def leep(source_probabilities: Tensor, labels: Tensor) -> float:
    r"""LEEP: how well the source head's probabilities predict the target's labels, through counts alone.

    .. math:: \mathrm{LEEP} = \frac1n \sum_i \log \sum_z \hat P(y_i \mid z)\,\theta(x_i)_z, \qquad
              \hat P(y, z) = \frac1n \sum_{i:\,y_i = y} \theta(x_i)_z

    θ(xᵢ)_z are the source probabilities of target example i, yᵢ its label, P̂(y|z) = P̂(y, z) / Σ_y P̂(y, z).

    **High means closer.** Range [−H(Y), 0], with H(Y) the entropy of the labels in nats, so that scores of targets
    with other numbers of classes do not compare. It is at most the mean log-likelihood of the best P(y|z).

    Args:
        source_probabilities: [n, source classes], of the source model on the target's inputs.
        labels: int64 [n], the target's. Class numbers are names: one that does not occur changes nothing.

    Raises:
        ValueError: fewer than 2 examples or classes with examples, other numbers of rows, rows that are not
            probabilities, numbers that are not finite.

    **Cost**: n × source classes; no training, one forward pass of the source model to get the probabilities.

    **Reference**: Nguyen et al. 2020, LEEP: A New Measure to Evaluate Transferability of Learned Representations
    (arXiv 2002.12462), §3. **Differs**: nothing.

    Example:
        >>> p = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.2, 0.8]])
        >>> round(leep(p, torch.tensor([0, 0, 1, 1])), 4), round(leep(p, torch.tensor([0, 1, 0, 1])), 4)
        (-0.2955, -0.6931)
    """
    p = probabilities_of("source_probabilities", source_probabilities)
    classes = target_classes(labels, len(p)).to(p.device)
    joint = p.new_zeros(int(classes.max()) + 1, p.shape[1]).index_add_(0, classes, p)
    conditional = torch.nan_to_num(joint / joint.sum(0))  # a source class that is never predicted has no say
    return float((conditional[classes] * p).sum(1).log().mean())


def nce(source_labels: Tensor, labels: Tensor) -> float:
    r"""NCE: minus the conditional entropy of the target's labels, given source labels of the same examples.

    .. math:: \mathrm{NCE} = -H(Y \mid Z) = \frac1n \sum_i \log \hat P(y_i \mid z_i)

    P̂ are relative frequencies. Source labels that nobody gave are the source model's decisions,
    ``source_probabilities.argmax(1)``, as in the comparison of the LEEP paper. With probabilities 0 and 1 LEEP is NCE.

    **High means closer.** Range [−H(Y), 0], with H(Y) the entropy of the labels in nats. With many source classes for
    few examples it is near 0 by chance.

    Args:
        source_labels: int64 [n], of the source task, for the same inputs.
        labels: int64 [n], the target's. Class numbers are names: one that does not occur changes nothing.

    Raises:
        ValueError: fewer than 2 examples or target classes with examples, other numbers of rows, negative labels.

    **Cost**: n.

    **Reference**: Tran et al. 2019, Transferability and Hardness of Supervised Classification Tasks (arXiv
    1908.08142). **Differs**: nothing.

    Example:
        >>> round(nce(torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 1, 1])), 4)  # half of ln ½
        -0.3466
    """
    source = classes_of("source_labels", source_labels)
    target = target_classes(labels, len(source)).to(source.device)
    joint = source.new_zeros(int(target.max()) + 1, int(source.max()) + 1)
    joint.index_put_((target, source), torch.ones_like(source), accumulate=True)
    counts = joint.double()
    return float((counts[target, source] / counts.sum(0)[source]).log().mean())
