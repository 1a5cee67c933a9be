"""Look-ups on a GPU: sums over segments of sorted (token, example) pairs, then over segments of tokens."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from forgetting.fisher.kernels.launch import ceiling, padded, raised

_LONG = 8  # rows a segment on average, from which many are read at once


def products(tokens: Tensor, g: Tensor, total: Tensor, padding_idx: int | None, power: int, memory: int) -> None:
    """total[v] += Σₙ |Σ over t with tokens[n,t] = v of g[n,t]|^power; tokens [n, t], g [n, t, d], total [rows, d].

    The row ``padding_idx`` stays as it is. ``memory`` bounds the sums of (token, example) pairs, a part of the
    examples at a time. Sorting waits for the device.
    """
    if not g.numel():
        return
    step = max(1, memory // (4 * g[0].numel()))
    for start in range(0, len(g), step):
        _sum_part(tokens[start : start + step], g[start : start + step], total, padding_idx, power)


def _sum_part(tokens: Tensor, g: Tensor, total: Tensor, padding_idx: int | None, power: int) -> None:
    examples = len(tokens)
    # The token leads, so that the pairs of one token are neighbours and need no second sort.
    keys = tokens.long() * examples + torch.arange(examples, device=tokens.device).unsqueeze(1)
    keys, order = torch.sort(keys.reshape(-1), stable=True)
    if padding_idx is not None:
        kept = keys // examples != padding_idx % len(total)
        keys, order = keys[kept], order[kept]
    pairs, lengths = torch.unique_consecutive(keys, return_counts=True)
    if not len(pairs):
        return
    powers = torch.empty(len(pairs), g.shape[2], dtype=torch.float32, device=g.device)
    every = torch.arange(len(pairs), device=g.device)
    launch(g.reshape(-1, g.shape[2]), order, lengths, powers, every, power, add=False)
    used, lengths = torch.unique_consecutive(pairs // examples, return_counts=True)
    launch(powers, every, lengths, total, used, 1, add=True)


def launch(source: Tensor, order: Tensor, lengths: Tensor, out: Tensor, places: Tensor, power: int, *, add: bool
           ) -> None:
    """out[places[s]] = (with ``add``: +=) |Σ of the rows source[order[j]], j in segment s|^power; no place twice."""
    starts = torch.nn.functional.pad(lengths.cumsum(0), (1, 0))
    width = padded(source.shape[1], 128)
    depth = 32 if len(order) > _LONG * len(lengths) else 4
    with torch.cuda.device_of(source):
        segment_sums[(len(lengths), ceiling(source.shape[1], width))](
            source, order, starts, out, places, source.shape[1], *source.stride(), *out.stride(),
            POWER=power, ADD=add, WIDTH=width, DEPTH=depth, num_warps=4)


@triton.jit
def segment_sums(source, order, starts, out, places, columns, source_row, source_column, out_row, out_column,
                 POWER: tl.constexpr, ADD: tl.constexpr, WIDTH: tl.constexpr, DEPTH: tl.constexpr):
    """WIDTH columns of one segment."""
    segment = tl.program_id(0)
    column = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    end = tl.load(starts + segment + 1)
    total = tl.zeros([WIDTH], tl.float32)
    for start in range(tl.load(starts + segment), end, DEPTH):
        line = start + tl.arange(0, DEPTH)
        row = tl.load(order + line, mask=line < end, other=0)
        values = tl.load(source + row[:, None] * source_row + column[None, :] * source_column,
                         mask=(line < end)[:, None] & (column < columns)[None, :], other=0.0)
        total += tl.sum(values.to(tl.float32), axis=0)
    total = raised(total, POWER)
    place = out + tl.load(places + segment) * out_row + column * out_column
    if ADD:
        total += tl.load(place, mask=column < columns, other=0.0)
    tl.store(place, total, mask=column < columns)
