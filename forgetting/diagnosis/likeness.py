"""Linear CKA of what modules give out, batch by batch: how alike features are before and after."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from forgetting.fisher.batches import tensors

ROWS = 256  # of a batch
ENOUGH = 1024  # examples
_LEAST = 4  # examples, below which there is no unbiased estimate
_COLUMNS = 2**15  # features at a time in float64


def centred(features: Tensor) -> Tensor:
    """The Gram matrix [n, n] of features [n, …] in float64, U-centred: rows without their diagonal add up to 0.

    Székely & Rizzo 2014: ⟨Ã, B̃⟩ / (n(n − 3)) of such matrices is the unbiased HSIC of Song et al. 2012.
    """
    flat = features.detach().flatten(1)
    n = len(flat)
    gram = flat.new_zeros(n, n, dtype=torch.float64)
    for part in flat.split(_COLUMNS, 1):
        wide = part.double()
        wide = wide - wide.mean(0)
        gram += wide @ wide.T
    gram.fill_diagonal_(0)
    rows = gram.sum(1)
    gram += rows.sum() / ((n - 1) * (n - 2)) - (rows[:, None] + rows[None]) / (n - 2)
    return gram.fill_diagonal_(0)


class Likeness:
    """Adds up over batches what linear CKA is made of.

    CKA = Σ_b h(K_b, L_b) / √(Σ_b h(K_b, K_b) · Σ_b h(L_b, L_b)), h the unbiased HSIC, batches weighted by their
    examples: Kornblith et al. 2019 (arXiv 1905.00414) with the estimator of Nguyen et al. 2021 (arXiv 2010.15327),
    which the size of the batches does not bias.
    """

    def __init__(self) -> None:
        self.examples = 0
        self._sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0])

    @property
    def enough(self) -> bool:
        """Whether no more examples are wanted."""
        return self.examples >= ENOUGH

    def add(self, before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> None:
        """One batch's U-centred Gram matrices by module."""
        rows = 0
        for name in before.keys() & after.keys():
            one, other = before[name], after[name].to(before[name].device)
            rows = len(one)
            for place, product in enumerate((one * other, one * one, other * other)):
                self._sums[name][place] += float(product.sum()) / (rows - 3)  # rows · h
        self.examples += rows

    def of(self, name: str) -> float | None:
        """A module's CKA; None where nothing was seen, or its features do not vary."""
        cross, one, other = self._sums.get(name, (0.0, 0.0, 0.0))
        return cross / (one * other) ** 0.5 if one > 0 and other > 0 else None


class Watched:
    """What hooks saw in one forward pass: U-centred Gram matrices by module, and the inputs of the head."""

    def __init__(self, examples: int) -> None:
        self.grams: dict[str, Tensor] = {}
        self.inputs: Tensor | None = None
        self._examples = examples
        self._rows = torch.linspace(0, examples - 1, min(examples, ROWS)).long()

    def output(self, name: str, given: Any) -> None:
        """Keep the Gram matrix of a module's output; of a module that is used twice, the last."""
        found = next(tensors(given), None)
        if found is None or found.ndim < 2 or len(found) != self._examples or not found.is_floating_point():
            return
        if len(self._rows) >= _LEAST:
            self.grams[name] = centred(found[self._rows.to(found.device)])


@contextlib.contextmanager
def watching(model: nn.Module, modules: Iterable[str], head: str | None, examples: int) -> Iterator[Watched]:
    """Look at these modules' outputs, and at the head's inputs, for the length of a forward pass."""
    found = Watched(examples)

    def observer(name: str) -> Any:
        return lambda _module, _inputs, given: found.output(name, given)

    def keep(_module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        found.inputs = next(tensors([arguments, named]), None)

    hooks = [model.get_submodule(name).register_forward_hook(observer(name)) for name in modules]
    if head is not None:
        hooks.append(model.get_submodule(head).register_forward_pre_hook(keep, with_kwargs=True))
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()
