"""Dark experience replay: old examples are stored with the model's logits, which it is to give again."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from forgetting.fisher.batches import default_forward, unwrap
from forgetting.parameters import evaluating
from forgetting.rehearsal.base import Rehearsal
from forgetting.rehearsal.competing import mask_of, squared_distance
from forgetting.rehearsal.memory import Memory

CHUNK = 256


def answers_of(model: nn.Module, memory: Memory, rows: Tensor) -> Tensor:
    """The logits that a model gives now to these rows of a memory, in eval mode; the model is left as found."""
    place = next(model.parameters())
    found = []
    with evaluating(model), torch.no_grad():
        for some in rows.split(CHUNK):
            drawn = memory.take(some).to(place.device, place.dtype)
            found.append(unwrap(default_forward(model, (drawn.inputs, drawn.targets))[0]))
    return torch.cat(found)


class DER(Rehearsal):
    """Holds the logits of stored examples: λ·(mean (z − h(x))² + labels·L(h(x′), y′)), x and x′ drawn independently.

    z are the logits that the model gave, in eval mode, when the task of x was consolidated; the squared distance is a
    mean over the columns of that task (with ``columns``, over all that the model had), then over examples.
    ``labels`` > 0 makes it DER++.

    Args:
        strength: λ ≥ 0, the paper's α.
        labels: relative weight ≥ 0 of the labels' loss, on a batch of its own: the paper's β/α; 0 is DER.
        memory: where examples are kept; default: 5 % of each task's, by chance.
        batch: how many are drawn a step (and again for the labels); ``None``: as many as ``penalty`` sees inputs.
        columns: among which the labels of every stored example are scored; ``None``: each among its own task's. Where
            they are set, tasks compete for one answer, and all stored logits are held, of columns not yet learned too.
        loss: ``(logits, targets) -> scalar`` for the labels; ``None``: cross entropy.

    Raises:
        ValueError: for a negative or infinite ``labels``, or a ``loss`` that has no labels to score; see also
            :class:`Rehearsal`.

    **Cost**: the stored examples, and 4 bytes a logit; ``consolidate`` has a forward pass over what is stored; a step
    one forward and backward pass more over the drawn examples, DER++ two.

    **Reference**: Buzzega et al. 2020, "Dark experience for general continual learning" (arXiv 2004.07211), equation 5,
    and equation 6 for DER++. **Differs**: logits are those of the model that has finished its task, in eval mode; the
    paper stores them while the task is learned, which ``der.memory.add(inputs, targets, answers=logits)`` in the loop
    does (with a ``capacity``). The squared distance is a mean over columns, not a sum: a sum's α is ours times their
    number. With ``outputs`` and without ``columns``, a task's own columns count; the paper has all from the beginning.

    Example:
        >>> model = nn.Linear(3, 2)
        >>> der = DER(strength=0.5, labels=1.0)
        >>> der.consolidate(model, [(torch.randn(40, 3), torch.arange(40) % 2)])
        >>> DER(strength=0.5).penalty(model).item(), der.penalty(model, torch.randn(8, 3)).item() > 0
        (0.0, True)
    """

    def __init__(self, strength: float, *, labels: float = 0.0, memory: Memory | None = None, batch: int | None = None,
                 columns: Iterable[int] | None = None,
                 loss: Callable[[Tensor, Tensor], Tensor] | None = None) -> None:
        super().__init__(strength, memory=memory, batch=batch, columns=columns, loss=loss)
        if not 0 <= labels < math.inf:
            raise ValueError(f"labels is {labels}, the relative weight of the labels' loss; it must be finite and at "
                             "least 0")
        if loss is not None and labels == 0:
            raise ValueError("loss= scores the labels, which labels=0 leaves out: give labels= a weight (DER++)")
        self.labels = float(labels)

    def _remember(self, model: nn.Module, data: Any, outputs: tuple[int, ...] | None) -> None:
        rows = self.memory.absorb(data, outputs=outputs)
        if len(rows):
            self.memory.answer(rows, answers_of(model, self.memory, rows))

    def _term(self, model: nn.Module, size: int) -> Tensor:
        logits, drawn = self._replayed(model, size)
        if drawn.answers is None:
            raise ValueError("the memory holds no logits: consolidate this DER, or memory.add(..., answers=logits)")
        own = None if self.columns is not None else mask_of(self.memory.outputs, drawn, logits)
        held = squared_distance(logits, drawn.answers, own)
        return held if self.labels == 0 else held + self.labels * self._scored(model, size)
