"""How far a model's outputs move with each weight, whatever the labels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn

from forgetting.curvature import Diagonal
from forgetting.fisher.batches import Batch, Forward, default_forward
from forgetting.fisher.estimate import MEMORY, averaged, check_surroundings, task_columns
from forgetting.fisher.labels import Labels, finite
from forgetting.parameters import Selection


def sensitivity(
    model: nn.Module,
    data: Iterable[Batch],
    *,
    forward: Forward | None = None,
    outputs: Iterable[int] | None = None,
    parameters: Selection = None,
    examples: int | None = None,
    memory: int = MEMORY,
    progress: bool = False,
    process_group: torch.distributed.ProcessGroup | None = None,
) -> Diagonal:
    r"""How far the squared norm of the outputs moves with each weight: the mean over examples of absolute gradients.

    .. math:: \Omega_i = \frac1N \sum_{n=1}^{N} \Big| \partial_{\theta_i} \lVert f_\theta(x_n) \rVert_2^2 \Big|

    f are the model's outputs (logits, not probabilities), at all positions that a sequence's ``attention_mask`` counts
    together, and nothing is halved: what comes back through the network is 2f. Labels are not read. The batch size
    never enters.

    Args:
        model: any module; it is run in eval mode (fault F6) and left as found.
        data: batches: inputs alone (a tensor, a tuple of one, a mapping without ``labels``), or what :func:`diagonal`
            takes, whose targets are not read.
        forward: ``forward(model, batch) -> (outputs, anything)`` for batches or models of another shape; a boolean
            [sequences, positions] in the second place says which positions count.
        outputs: the columns of the last output dimension that belong to the task; the others are left out of the norm.
        parameters: patterns or a function of the name; default: every parameter that requires a gradient.
        examples: stop after exactly this many, the FIRST ones.
        memory: bytes that temporary per-example gradients may take.
        progress: show a bar with examples a second, where the standard error is a terminal.
        process_group: the ``torch.distributed`` processes that call this together, as for :func:`diagonal`.

    Returns:
        A :class:`~forgetting.curvature.Diagonal` in float32 or better, on the model's device, with ``.routes``.

    Raises:
        ValueError: no data, no parameters, outputs that are not finite, a model that mixes examples.
        TypeError: a batch or a model's return value of an unknown kind.
        RuntimeError: inside ``torch.inference_mode``; where another process of the group failed.

    **Cost**: one forward and one backward; memory as :func:`diagonal`.

    **Reference**: Aljundi et al. 2018 (arXiv 1711.09601), section 4, with the squared norm in place of each output.

    **Differs**: the absolute value is taken of each example's gradient, as in the equation; a batch's mean gradient,
    whose examples cancel, would be smaller.

    Example:
        >>> import forgetting.fisher
        >>> model = nn.Linear(2, 1, bias=False)
        >>> _ = torch.nn.init.constant_(model.weight, 0.5)
        >>> forgetting.fisher.sensitivity(model, [torch.tensor([[1.0, 0.0], [-2.0, 0.0]])])["weight"]
        tensor([[2.5000, 0.0000]])
    """
    check_surroundings(examples)
    meaning = _SquaredNorm("", None, task_columns(outputs), 0.0, torch.Generator())
    return averaged(model, data, meaning, power=1, forward=forward or unlabelled, parameters=parameters,
                    examples=examples, memory=memory, progress=progress, process_group=process_group)


def unlabelled(model: nn.Module, batch: Batch) -> tuple[Any, Any]:
    """Call the model on a batch with or without targets; in place of targets, what an ``attention_mask`` counts."""
    if isinstance(batch, Mapping) and isinstance(batch.get("attention_mask"), Tensor):
        inputs = {key: value for key, value in batch.items() if key != "labels"}
        return model(**inputs), batch["attention_mask"] != 0
    if isinstance(batch, Tensor):
        return model(batch), None
    if isinstance(batch, Mapping) and "labels" not in batch:
        return model(**batch), None
    if isinstance(batch, (tuple, list)) and len(batch) == 1:
        return default_forward(model, (batch[0], None))
    return default_forward(model, batch)


class _SquaredNorm(Labels):
    """Sends back what makes each backward the gradient of ‖f‖²."""

    def cotangents(self, outputs: Tensor, targets: Tensor) -> list[Tensor]:
        finite(outputs)
        counted = isinstance(targets, Tensor) and targets.dtype == torch.bool and outputs.ndim == 3
        if counted and targets.shape == outputs.shape[:2]:
            return [2 * outputs * targets.unsqueeze(-1)]  # padding is no part of an example
        return [2 * outputs]
