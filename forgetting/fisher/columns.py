"""Few columns for a predictive covariance: diag(p) − ppᵀ of a sure model is nearly of low rank."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

_BACKWARD = 2.0  # what a backward pass costs in forward passes: no weight gradients, but their squares
_OUTER = 0.5  # of a network of outer products alone, whose squares wait for the last column


@dataclass(frozen=True)
class Columns:
    """Vectors v over a batch's outputs with F = Σ (Jᵀv)², an example's largest first.

    Args:
        vectors: [columns, examples, …outputs], zero where an example needs no more.
        counts: [examples], how many of the first columns each example needs.
    """

    vectors: Tensor
    counts: Tensor

    def shared(self, outer: bool = False) -> int:
        """How many columns to send back through the whole batch's graph; what is left goes example by example.

        The choice that is predicted to cost least: a column on the graph costs a backward pass for every example, one
        off it a forward and a backward pass for those examples alone that need it.

        Args:
            outer: whether every example's weight gradients are outer products, which are squared once a graph.
        """
        batch, number = self.counts.shape[0], self.vectors.shape[0]
        taken = torch.arange(number + 1, device=self.counts.device).unsqueeze(1)
        left = (self.counts - taken).clamp(min=0).sum(1)
        return int((taken[:, 0] * batch * (_OUTER if outer else _BACKWARD) + left * (1 + _BACKWARD)).argmin())

    def left(self, columns: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The work list behind the first ``columns``: (examples, cotangents) in batches of the batch's own size."""
        number = torch.arange(len(self.vectors), device=self.counts.device).unsqueeze(1)
        column, example = torch.nonzero((number >= columns) & (number < self.counts), as_tuple=True)
        for start in range(0, len(column), len(self.counts)):
            part = slice(start, start + len(self.counts))
            yield example[part], self.vectors[column[part], example[part]]


@dataclass(frozen=True)
class Pivoted:
    """The Cholesky factor of diag(p) − ppᵀ, pivoted by falling probability, in closed form.

    With p₁ ≥ p₂ ≥ … and the tails sₖ = pₖ + pₖ₊₁ + …, what k columns leave is diag(p) − ppᵀ/sₖ₊₁ over the classes
    behind, whose largest diagonal is at the largest p. So column k is √(pₖsₖ₊₁/sₖ) at its own class and
    −pᵢ√(pₖ/(sₖsₖ₊₁)) at each class i behind it. Nothing is subtracted: saturated probabilities keep their relative
    precision.

    Args:
        p: [..., classes], the SMALLEST first, so that tails are sums of what comes before; column k's class stands at
            −1 − k.
        classes: which class stands where.
        own: a column's entry at its own class.
        across: what −pᵢ is multiplied with behind it.
        gains: how much of the trace each column takes, the first column first, [..., classes − 1].
        dtype: of the columns.
    """

    p: Tensor
    classes: Tensor
    own: Tensor
    across: Tensor
    gains: Tensor
    dtype: torch.dtype

    @classmethod
    def of(cls, p: Tensor) -> Pivoted:
        """The factor of these probabilities [..., classes]; all zeros where a position does not count."""
        ordered, classes = p.double().sort(dim=-1, stable=True)
        tails = ordered.cumsum(-1)
        behind = _shifted(tails)
        squared = torch.nan_to_num(ordered / (tails * behind), 0.0, 0.0)  # 0/0 and p/0 where nothing is behind
        gains = squared * (behind.square() + _shifted(ordered.square().cumsum(-1)))
        across = squared.sqrt()
        return cls(ordered, classes, across * behind, across, gains[..., 1:].flip(-1), p.dtype)

    def column(self, step: Tensor | int, *cells: Tensor) -> Tensor:
        """Column ``step`` of every cell, or of the cells that are named by their indices, [..., classes].

        What has no normal square in the dtype that was given is 0: numbers with few bits would slow down every product.
        """
        p, classes, own, across = (part[cells] if cells else part for part in
                                   (self.p, self.classes, self.own, self.across))
        number = torch.arange(p.shape[-1], device=p.device)
        place = (p.shape[-1] - 1 - torch.as_tensor(step, device=p.device)).expand(p.shape[:-1]).unsqueeze(-1)
        behind = torch.where(number < place, -p * across.gather(-1, place), 0.0)
        entries = torch.where(number == place, own, behind).to(self.dtype)
        entries = torch.where(entries.abs() < torch.finfo(self.dtype).tiny ** 0.5, 0.0, entries)
        return torch.zeros_like(entries).scatter(-1, classes, entries)


def _shifted(sums: Tensor) -> Tensor:
    """Running sums without their last term."""
    return torch.nn.functional.pad(sums[..., :-1], (1, 0))


def factored(p: Tensor, tolerance: float) -> Columns:
    """Columns of diag(p) − ppᵀ by pivoted Cholesky, the largest over the whole batch first.

    Args:
        p: [examples, positions, classes] probabilities; a position of zeros does not count.
        tolerance: the share of the trace, over the batch, that may be dropped.
    """
    factor = Pivoted.of(p)
    examples, positions, steps = factor.gains.shape
    gains = factor.gains.cummin(-1).values.reshape(examples, -1)  # a cell's columns are kept in its own order
    falling, where = gains.flatten().sort(descending=True)
    whole = factor.gains.sum()
    # what the columns before this one leave is still too much to drop
    needed = (whole - (falling.cumsum(0) - falling) > tolerance * whole) & (falling > 0)
    kept = torch.zeros_like(needed).index_put_((where,), needed).view(examples, -1)
    counts = kept.sum(1)
    number = int(counts.max()) if examples else 0
    row, cell = kept.nonzero(as_tuple=True)
    place = cell
    if positions > 1:
        order = torch.where(kept, gains, -1.0).argsort(dim=1, descending=True, stable=True)
        slot = torch.arange(number, device=p.device).expand(examples, number)
        row, place = (slot < counts.unsqueeze(1)).nonzero(as_tuple=True)
        cell = order[row, place]
    position, step = cell // max(1, steps), cell % max(1, steps)
    found = p.new_zeros(number, *p.shape)
    found[place, row, position] = factor.column(step, row, position)
    return Columns(found, counts)
