"""How a run ended: the model that knew the source and the model at the end, for whoever compares them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from forgetting.protocol.learning import Learning
from forgetting.protocol.recipe import derive, seeded
from forgetting.protocol.store import Store
from forgetting.tasks import Examples


@dataclass(frozen=True)
class Ending:
    """What a diagnosis looks at. Both models are copies: nothing of the run depends on what becomes of them.

    Args:
        before: the model when it had learned the source.
        after: the model at the end.
        source: the source's test split, on the run's device.
        known: the columns of the outputs among which the source was answered then.
        columns: those among which it is answered at the end; ``known`` lie among them.
        seed: of what the diagnosis draws.

    Example:
        >>> from torch import eye, tensor
        >>> Ending(nn.Linear(2, 2), nn.Linear(2, 2), Examples(eye(2), tensor([0, 1])), (0, 1), (0, 1), 0).known
        (0, 1)
    """

    before: nn.Module
    after: nn.Module
    source: Examples
    known: tuple[int, ...]
    columns: tuple[int, ...]
    seed: int


Diagnose = Callable[[Ending], dict[str, Any]]


def source_known(learning: Learning, store: Store | None) -> dict[str, Tensor] | None:
    """The state of the model that had just learned the source; None where that was not kept.

    A run that goes on behind its first task finds it where the first task is shared.
    """
    if learning.sequence.pretrained:
        return dict(learning.given)
    if learning.learned == 1:
        return copy.deepcopy(learning.model.state_dict())
    key = learning.recipe.first_task_key(learning.seed, learning.fingerprint)
    found = store.shared(key, learning.recipe.device) if store else None
    return None if found is None else found[1]["model"]


def diagnosed(learning: Learning, state: dict[str, Tensor], diagnose: Diagnose) -> dict[str, Any]:
    """What a diagnosis says of a run that has learned all its tasks; every generator is left as found."""
    before, after = copy.deepcopy(learning.model), copy.deepcopy(learning.model)
    before.load_state_dict(state)
    sequence, count = learning.sequence, len(learning.sequence)
    seed = derive(learning.seed, "diagnosis")
    with seeded(seed, learning.recipe.device):
        return diagnose(Ending(before, after, sequence[0].test, tuple(sequence.columns(0, 1)),
                               tuple(sequence.columns(0, count)), seed))
