"""Proxy replay: data that nobody labelled stand in for the source, seen through the old model."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from forgetting.rehearsal.base import Rehearsal
from forgetting.rehearsal.der import answers_of
from forgetting.rehearsal.memory import Memory


class ProxyReplay(Rehearsal):
    """Holds what the old model says of unlabelled examples: λ·T²·mean KL(p_old ‖ p), at temperature T.

    The old model is the one that was consolidated last. Nothing of it is kept but its logits on the proxies: they are
    computed once for each, in eval mode, so that a step needs no second model. Tasks with columns of their own have a
    softmax and a term of their own each; columns that a later ``outputs`` contains are part of that one.

    Args:
        strength: λ ≥ 0.
        proxies: batches of unlabelled inputs (tensors, or mappings; of pairs the first counts), or a loader of them,
            gone through at the first ``consolidate``. ``None``: the inputs of the tasks that are consolidated.
        temperature: T > 0; above 1 the smaller probabilities count more.
        memory: where proxies are kept; default: all of them.
        batch: how many are drawn a step; ``None``: as many as ``penalty`` sees inputs.

    Raises:
        ValueError: for a temperature that is not positive and finite; see also :class:`Rehearsal`.

    **Cost**: the stored proxies, and 4 bytes a logit; each ``consolidate`` has a forward pass over what is stored, a
    step one forward and backward pass more over the drawn proxies.

    **Reference**: Robins 1995, "Catastrophic forgetting, rehearsal and pseudorehearsal", Connection Science 7:123, for
    examples that only the old network labels; Hinton et al. 2015 (arXiv 1503.02531) for the temperature and its T²;
    Lee et al. 2019 (arXiv 1903.12648) for unlabelled data from elsewhere. **Differs**: the proxies are given, not made
    (Robins) or chosen by the model's confidence (Lee et al.).

    Example:
        >>> model = nn.Linear(3, 2)
        >>> replay = ProxyReplay(strength=1.0, proxies=[torch.randn(16, 3)])
        >>> replay.consolidate(model)
        >>> model.weight.data += torch.tensor([[1.0], [0.0]])
        >>> replay.penalty(model, torch.randn(4, 3)).item() > 0
        True
    """

    labelled: ClassVar[bool] = False

    def __init__(self, strength: float, *, proxies: Iterable[Any] | None = None, temperature: float = 2.0,
                 memory: Memory | None = None, batch: int | None = None) -> None:
        super().__init__(strength, memory=memory if memory is not None else Memory(share=1.0), batch=batch)
        if not 0 < temperature < math.inf:
            raise ValueError(f"the temperature is {temperature}; it must be finite and above 0")
        self.proxies = proxies
        self.temperature = float(temperature)
        self._heads: list[tuple[int, ...]] = []

    def consolidate(self, model: nn.Module, data: Any = None, *, outputs: Any = None, curvature: Any = None) -> None:
        """Let the model as it is now say what it says of the proxies; ``data`` is read where there are none.

        Args:
            model: left as found.
            data: batches of the task just learned, whose inputs are the proxies unless there are others.
            outputs: the columns in which the task is scored; ``None`` for all.
            curvature: has no use here.

        Raises:
            ValueError: where there are neither proxies nor data, or with a curvature.
        """
        given = self.proxies if self.proxies is not None else data
        super().consolidate(model, given, outputs=outputs, curvature=curvature)

    def _remember(self, model: nn.Module, data: Any, outputs: tuple[int, ...] | None) -> None:
        if self.proxies is None or not len(self.memory):
            self.memory.absorb(data, labelled=False)
        rows = torch.arange(len(self.memory))
        answers = answers_of(model, self.memory, rows)
        self.memory.answer(rows, answers)
        head = outputs if outputs is not None else tuple(range(answers.shape[-1]))
        self._heads = [known for known in self._heads if not set(known) <= set(head)]
        if not any(set(head) <= set(known) for known in self._heads):
            self._heads.append(head)

    def _term(self, model: nn.Module, size: int) -> Tensor:
        logits, drawn = self._replayed(model, size)
        if drawn.answers is None:
            raise ValueError("the memory holds no logits of an old model: consolidate first")
        return sum((self._distance(logits[..., list(head)], drawn.answers[..., list(head)]) for head in self._heads),
                   logits.new_zeros(()))

    def _distance(self, logits: Tensor, answers: Tensor) -> Tensor:
        """T²·mean KL(old ‖ new) over some columns."""
        old, new = (functional.log_softmax(z / self.temperature, -1).flatten(0, -2) for z in (answers, logits))
        return self.temperature**2 * functional.kl_div(new, old, reduction="batchmean", log_target=True)

    def _learned(self) -> dict[str, Any]:
        return {**super()._learned(), "heads": {str(number): torch.tensor(head)
                                                for number, head in enumerate(self._heads)}}

    def _restore(self, learned: Mapping[str, Any]) -> None:
        super()._restore(learned)
        heads = learned["heads"]
        self._heads = [tuple(heads[str(number)].tolist()) for number in range(len(heads))]
