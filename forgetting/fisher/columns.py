"""Few columns for a predictive covariance: diag(p) − ppᵀ of a sure model is nearly of low rank."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

_BACKWARD = 2.0  # what a backward pass costs in forward passes: no weight gradients, but their squares


@dataclass(frozen=True)
class Columns:
    """Vectors v over a batch's outputs with F = Σ (Jᵀv)², an example's largest first.

    Args:
        vectors: [columns, examples, …outputs], zero where an example needs no more.
        counts: [examples], how many of the first columns each example needs.
    """

    vectors: Tensor
    counts: Tensor

    def shared(self) -> int:
        """How many columns to send back through the whole batch's graph; what is left goes example by example.

        The choice that is predicted to cost least: a column on the graph costs a backward pass for every example, one
        off it a forward and a backward pass for those examples alone that need it.
        """
        batch = len(self.counts)

        def cost(columns: int) -> float:
            left = int((self.counts - columns).clamp(min=0).sum())
            return columns * batch * _BACKWARD + left * (1 + _BACKWARD)

        return min(range(len(self.vectors) + 1), key=cost)

    def left(self, columns: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The work list behind the first ``columns``: (examples, cotangents) in batches of the batch's own size."""
        number = torch.arange(len(self.vectors), device=self.counts.device).unsqueeze(1)
        column, example = torch.nonzero((number >= columns) & (number < self.counts), as_tuple=True)
        for start in range(0, len(column), len(self.counts)):
            part = slice(start, start + len(self.counts))
            yield example[part], self.vectors[column[part], example[part]]


def factored(p: Tensor, tolerance: float) -> Columns:
    """Columns of diag(p) − ppᵀ by pivoted Cholesky, the largest over the whole batch first.

    Args:
        p: [examples, positions, classes] probabilities; a position of zeros does not count.
        tolerance: the share of the trace, over the batch, that may be dropped.
    """
    vectors, gains = _cholesky(p.double(), tolerance)
    examples, positions, steps = gains.shape
    whole = p.double().sum() - p.double().square().sum()
    gains = gains.cummin(-1).values  # a cell's columns are kept in its own order
    falling = gains.reshape(-1).sort(descending=True)
    kept = torch.zeros_like(falling.values, dtype=torch.bool)
    # what the columns before this one leave is still too much to drop
    before = falling.values.cumsum(0) - falling.values
    kept[falling.indices] = (whole - before > tolerance * whole) & (falling.values > 0)
    kept = kept.view(examples, positions * steps)
    counts = kept.sum(1)
    number = int(counts.max()) if examples else 0
    gains = torch.where(kept, gains.reshape(examples, -1), -1.0)
    order = torch.argsort(gains, dim=1, descending=True, stable=True)[:, :number]
    found = vectors.new_zeros(number, examples, *p.shape[1:])
    rows = torch.arange(examples, device=p.device).unsqueeze(1).expand_as(order)
    slot = torch.arange(number, device=p.device).expand_as(order)
    there = slot < counts.unsqueeze(1)
    position, step = order // steps, order % steps
    found[slot[there], rows[there], position[there]] = vectors[rows[there], position[there], step[there]]
    return Columns(found.to(p.dtype), counts)


def _cholesky(p: Tensor, tolerance: float) -> tuple[Tensor, Tensor]:
    """Every cell's columns [examples, positions, steps, classes], and how much trace each takes [.., steps]."""
    rest = torch.diag_embed(p) - p.unsqueeze(-1) * p.unsqueeze(-2)
    allowed = tolerance * float(rest.diagonal(dim1=-2, dim2=-1).sum())
    vectors: list[Tensor] = []
    gains: list[Tensor] = []
    for _ in range(p.shape[-1]):
        diagonal = rest.diagonal(dim1=-2, dim2=-1).clamp(min=0)
        if vectors and float(diagonal.sum()) <= allowed / 8:
            break
        largest, pivot = diagonal.max(-1, keepdim=True)
        index = pivot.unsqueeze(-2).expand(*pivot.shape[:-1], p.shape[-1], 1)
        column = rest.gather(-1, index).squeeze(-1)
        vector = torch.where(largest > 0, column / largest.sqrt().clamp(min=torch.finfo(p.dtype).tiny), 0.0)
        vectors.append(vector)
        gains.append(vector.square().sum(-1))
        rest = rest - vector.unsqueeze(-1) * vector.unsqueeze(-2)
    return torch.stack(vectors, -2), torch.stack(gains, -1)
