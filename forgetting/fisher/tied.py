"""A table that is looked up and multiplied by: the input embedding that is the output head too.

An example's gradient is a dense product A plus sparse rows B: |A + B|^p differs from |A|^p in B's rows only, so the
dense sum goes by the linear rule and the few rows are corrected.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from forgetting.fisher.capture import Use
from forgetting.fisher.rules import widened
from forgetting.fisher.rules.embedding import Embedding
from forgetting.fisher.rules.linear import Linear


@dataclass
class Tied:
    """One parameter with one linear use and look-ups beside it."""

    dense: Use
    lookups: list[Use]
    total: Tensor
    power: int
    memory: int

    @classmethod
    def of(cls, entries: Sequence[tuple[Use, str, bool]], total: Tensor, power: int, memory: int) -> Tied | None:
        """The account of these (use, slot, whether of the whole parameter); None for any other set of uses."""
        dense = [use for use, slot, _ in entries if type(use.rule) is Linear and slot == "weight"]
        lookups = [use for use, _, _ in entries if isinstance(use.rule, Embedding)]
        if len(dense) != 1 or len(dense) + len(lookups) != len(entries) or not all(whole for *_, whole in entries):
            return None
        if len({use.call.get("padding_idx") for use in lookups}) > 1:
            return None
        return cls(dense[0], lookups, total, power, memory)

    def __post_init__(self) -> None:
        self._rows: Tensor | None = None
        self._where: dict[Use, Tensor] = {}
        self._dense: Tensor | None = None
        self._sparse: dict[Use, Tensor] = {}

    def receive(self, use: Use, sources: Mapping[str, Tensor], gradient: Tensor) -> None:
        """One use's gradient; of the dense one only the looked-up rows are kept."""
        if use is not self.dense:
            self._sparse[use] = Embedding.flat(sources, widened(gradient))[1]
            return
        use.rule.accumulate(sources, gradient, use.call, {"weight": self.total}, self.power, self.memory)
        x = widened(sources["input"]).reshape(len(gradient), -1, sources["input"].shape[-1])
        g = widened(gradient).reshape(len(gradient), -1, gradient.shape[-1])
        self._find(len(gradient))
        assert self._rows is not None
        owner, rows = self._rows // len(self.total), self._rows % len(self.total)
        parts = [g[n][:, rows[owner == n]].T @ x[n] for n in range(len(g))]
        self._dense = torch.cat(parts)

    def settle(self) -> None:
        """Correct the rows, when all uses of one backward are in."""
        if not self._sparse:
            self._dense = None
            return
        examples = len(next(iter(self._sparse.values())))
        self._find(examples)
        assert self._rows is not None
        b = self.total.new_zeros(len(self._rows), self.total.shape[-1])
        for use, gradient in self._sparse.items():
            b.index_add_(0, self._where[use], gradient.reshape(-1, gradient.shape[-1]).to(b.dtype))
        rows = self._rows % len(self.total)
        padding = self.lookups[0].call.get("padding_idx")
        if padding is not None:
            b.mul_((rows != padding % len(self.total)).unsqueeze(1))
        a = self._dense if self._dense is not None else torch.zeros_like(b)
        change = (2 * a + b).mul_(b) if self.power == 2 else (a + b).abs_() - a.abs()
        self.total.index_add_(0, rows, change)
        self.total.clamp_(min=0)  # a sum of powers, that rounding may leave a hair below
        self._dense, self._sparse = None, {}

    def _find(self, examples: int) -> None:
        """Which rows each example looks up, as example · rows + row, and where each look-up stands among them."""
        if self._rows is not None:
            return
        tokens = {use: use.by_examples(use.sources["input"], examples)[0]["input"].reshape(examples, -1)
                  for use in self.lookups}
        example = torch.arange(examples, device=self.total.device).unsqueeze(1)
        keys = [(example * len(self.total) + found).reshape(-1) for found in tokens.values()]
        self._rows, where = torch.unique(torch.cat(keys), return_inverse=True)
        self._where = dict(zip(tokens, where.split([len(key) for key in keys]), strict=True))
