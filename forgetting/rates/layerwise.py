"""Parameter groups whose rate falls from the output to the input."""

from __future__ import annotations

import math
from itertools import takewhile
from typing import Any

from torch import nn

from forgetting.execution import used_and_unused
from forgetting.parameters import canonical

__all__ = ["layerwise_decay"]


def layerwise_decay(
    model: nn.Module, rate: float, decay: float = 1 / 2.6, *, inputs: Any = None, weight_decay: float | None = None
) -> list[dict[str, Any]]:
    r"""Parameter groups whose rate falls by a constant factor a layer, from the output to the input.

    .. math:: \eta_l = \eta\,\xi^{\,L - l}, \qquad l = 1, \dots, L

    with :math:`\eta` the rate of the last layer, :math:`\xi` the decay and :math:`L` the number of layers. The layers
    are the groups of :func:`forgetting.execution.execution_groups` with ``blocks=True``, in the order of execution: one
    for each repeated block (a transformer's layer, a residual block) and one for each module outside of such blocks. So
    it works for any module, and decays of the literature keep their meaning.

    Args:
        model: any module; parameters with ``requires_grad=False`` are left out, and their layers still count.
        rate: learning rate of the last layer, above 0.
        decay: factor a layer, in (0, 1]; 1 gives every layer the same rate. The default is that of discriminative
            fine-tuning, chosen for a network of few layers: far down a deep one it leaves next to nothing.
        inputs: one forward pass's inputs; ``None`` takes the order of registration. Parameters that the pass does not
            use get the full rate.
        weight_decay: set in every group; ``None`` leaves it to the optimizer.

    Returns:
        Groups for any ``torch.optim`` optimizer, from the input on: ``params``, ``lr``, ``name`` (the layer's),
        ``names`` (the parameters'), and ``weight_decay`` where given. Every trainable parameter is in exactly one.

    Raises:
        ValueError: where a number is out of its range or no parameter is trainable.

    Cost:
        One forward pass without gradients where ``inputs`` are given.

    Reference:
        Clark, Luong, Le and Manning, "ELECTRA", 2020 (arXiv 2003.10555), appendix A; Howard and Ruder, "Universal
        Language Model Fine-tuning", 2018 (arXiv 1801.06146), section 3.2 (discriminative fine-tuning, decay 1/2.6).

    Differs:
        ELECTRA gives all embeddings one layer and the head the place of one more; here each module outside of the
        blocks is a layer. Heads and branches that stand side by side count as layers one after the other: give several
        heads a group of their own.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> [(group["name"], group["lr"]) for group in layerwise_decay(model, 0.1, 0.5)]
        [('0', 0.05), ('2', 0.1)]
    """
    if not (rate > 0 and math.isfinite(rate)):
        raise ValueError(f"rate={rate!r} must be a finite number above 0")
    if not 0 < decay <= 1:
        raise ValueError(f"decay={decay!r} must lie in (0, 1]: it multiplies the rate once a layer, going down")
    if weight_decay is not None and not (weight_decay >= 0 and math.isfinite(weight_decay)):
        raise ValueError(f"weight_decay={weight_decay!r} must be a finite number, 0 or more")
    trainable = {canonical(name): parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if not trainable:
        raise ValueError(f"{type(model).__name__} has no trainable parameters: there is nothing to give a rate to")
    used, unused = used_and_unused(model, inputs, blocks=True)
    distances = [*range(len(used) - 1, -1, -1), *(0 for _ in unused)]
    groups: list[dict[str, Any]] = []
    for names, distance in zip(used + unused, distances, strict=True):
        learning = [name for name in names if name in trainable]
        if learning:
            group = {"params": [trainable[name] for name in learning], "lr": rate * decay**distance,
                     "name": _layer(names), "names": learning}
            groups.append(group if weight_decay is None else {**group, "weight_decay": weight_decay})
    return groups


def _layer(names: list[str]) -> str:
    """The path that one layer's parameters have in common; the names themselves where that is the model."""
    levels = zip(*(name.split(".")[:-1] for name in names), strict=False)
    path = ".".join(level[0] for level in takewhile(lambda level: len(set(level)) == 1, levels))
    return path or ", ".join(names)
