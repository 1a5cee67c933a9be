"""Experience replay: some old examples are learned again beside the new ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from forgetting.rehearsal.arrivals import pair, size_of
from forgetting.rehearsal.base import Rehearsal
from forgetting.rehearsal.memory import Memory
from forgetting.rehearsal.rows import joined


class Replay(Rehearsal):
    """Learns stored examples again at every step: L(batch) + λ·L(a batch drawn from the memory).

    With the whole source in the memory the mean over draws of its gradient is that of joint training,
    L_target + λ·L_source.

    Args:
        strength: λ ≥ 0, the weight of the loss on the drawn batch; 1 weighs it like the task's.
        memory: where examples are kept; default: 5 % of each task's, by chance.
        batch: how many are drawn a step; ``None``: as many as ``penalty`` sees inputs.
        columns: among which every stored example is scored; ``None``: each among its own task's.
        loss: ``(logits, targets) -> scalar``; ``None``: cross entropy.

    Raises:
        ValueError: see :class:`Rehearsal`.

    **Cost**: the stored examples; a step has one forward and backward pass more, over the drawn examples.

    **Reference**: Chaudhry et al. 2019, "On tiny episodic memories in continual learning" (arXiv 1902.10486),
    algorithm 1; the memory by reservoir sampling, its algorithm 3. **Differs**: the mean over new and drawn examples
    together is there what λ = 1 gives here, halved where both batches are of one size: a step is twice as long at the
    same rate. Tasks are stored once they are learned, not while they are. The drawn batch has a forward pass of its
    own, which norm layers in train mode see; :meth:`mixed` makes one batch of both.

    Example:
        >>> data = [(torch.randn(20, 3), torch.arange(20) % 2)]
        >>> model = nn.Linear(3, 2)
        >>> replay = Replay(memory=Memory(share=0.1))
        >>> replay.consolidate(model, data)
        >>> len(replay.memory), replay.penalty(model, torch.randn(8, 3)).requires_grad
        (2, True)
    """

    def __init__(self, strength: float = 1.0, *, memory: Memory | None = None, batch: int | None = None,
                 columns: Iterable[int] | None = None,
                 loss: Callable[[Tensor, Tensor], Tensor] | None = None) -> None:
        super().__init__(strength, memory=memory, batch=batch, columns=columns, loss=loss)

    def _term(self, model: nn.Module, size: int) -> Tensor:
        return self._scored(model, size)

    def mixed(self, loader: Iterable[Any]) -> Mixed:
        """A loader's batches, each with drawn examples at its end, for a loop that adds no penalty.

        The loop's own loss scores them, so strength, columns and loss of this object have no part in it: the weight of
        old examples is their number, ``batch=`` to each batch (as many as it has, without).

        Args:
            loader: of (inputs, targets) pairs, or of mappings with ``"labels"``.

        Example:
            >>> replay = Replay(memory=Memory(capacity=4), batch=2)
            >>> batches = [(torch.zeros(5, 3), torch.zeros(5, dtype=torch.int64))]
            >>> replay.consolidate(nn.Linear(3, 2), batches)
            >>> [len(targets) for _, targets in replay.mixed(batches)]
            [7]
        """
        return Mixed(self, loader)


class Mixed:
    """What :meth:`Replay.mixed` gives: as many batches as the loader has."""

    def __init__(self, replay: Replay, loader: Iterable[Any]) -> None:
        self._replay, self._loader = replay, loader

    def __len__(self) -> int:
        return len(self._loader)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[Any]:
        for batch in self._loader:
            yield self._with_old(batch) if len(self._replay.memory) else batch

    def _with_old(self, batch: Any) -> Any:
        """The batch with drawn examples at its end."""
        inputs, targets = pair(batch, labelled=True)
        drawn = self._replay.memory.draw(self._replay.batch or size_of(inputs))
        if targets is None or drawn.targets is None:
            raise ValueError("the memory has no targets to mix into labelled batches")
        both = joined(inputs, drawn.inputs)
        labels = torch.cat([targets, drawn.targets.to(targets)])
        return {**both, "labels": labels} if isinstance(batch, Mapping) else (both, labels)
