"""A run's own diagnosis: the model that knew the source against the model at the end."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from forgetting.diagnosis.answers import Reader
from forgetting.diagnosis.comparing import compare
from forgetting.diagnosis.head import find
from forgetting.fisher.batches import Batch, default_forward, unwrap
from forgetting.parameters import evaluating
from forgetting.protocol.ending import Ending

EXAMPLES = 2000
_BATCH = 200
_NEVER = -1e4  # a logit whose probability is 0 and that is finite


def of_run(ending: Ending) -> dict[str, Any]:
    """What a run lost of its source and where, as plain data: for ``forgetting.run(..., diagnose=of_run)``.

    :func:`~forgetting.diagnosis.compare` of the two models on at most 2000 examples of the source's test split, drawn
    by the run's seed. Each model answers among the columns of its time: where later tasks brought classes that the
    source is now taken for, the model before does not know them yet.

    Args:
        ending: of a run.

    Returns:
        :meth:`Comparison.as_data <forgetting.diagnosis.Comparison.as_data>`, without the drift of single parameters.

    **Cost**: that of :func:`~forgetting.diagnosis.compare` on at most 2000 examples, whatever the run took.

    Example:
        >>> from forgetting.protocol import Method, Recipe, run
        >>> recipe = Recipe("digits-transfer", Method("plain"), epochs=1, pretraining_epochs=1)
        >>> run(recipe, diagnose=of_run).diagnosis["examples"]
        539
    """
    data = list(_batches(ending))
    absent = sorted(set(ending.columns) - set(ending.known))
    with evaluating(ending.after):
        head = find(ending.after, data[0], Reader(None, None), None)

    def forward(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor | None]:
        outputs, targets = default_forward(model, batch)
        logits = unwrap(outputs)
        if model is ending.before and absent:
            logits = logits.index_fill(1, torch.tensor(absent, device=logits.device), _NEVER)
        return logits, targets

    found = compare(ending.before, ending.after, data, outputs=sorted(ending.columns), head=head, forward=forward,
                    seed=ending.seed % 2**32).as_data()
    del found["parameters"]
    return found


def _batches(ending: Ending) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of the source's test examples, in an order of the run's seed."""
    order = torch.Generator().manual_seed(ending.seed)
    left = EXAMPLES
    for inputs, targets in ending.source.batches(_BATCH, shuffle=True, generator=order):
        if left <= 0:
            return
        yield inputs[:left], targets[:left]
        left -= len(inputs)
