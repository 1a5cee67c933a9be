"""Linear maps on a GPU: an example's gᵀx on the matrix units, raised to the power, added up in registers."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from forgetting.fisher.kernels.launch import Tile, accumulate, ceiling, plan, product_settings, raised, reachable


def products(x: Tensor, g: Tensor, total: Tensor, power: int, memory: int) -> None:
    """total[o, i] += Σₙ |Σₜ g[n,t,o]·x[n,t,i]|^power; x [n, t, i], g [n, t, o], any strides.

    Products of float16 and bfloat16 are accumulated in float32. A single position is a product of powers, which needs
    no kernel; fewer than 16 are padded to 16.
    """
    if not x.numel() or not g.numel():
        return
    if x.shape[1] == 1:
        total.addmm_(_powers(g[:, 0], total, power).T, _powers(x[:, 0], total, power))
        return
    wide = max(x.element_size(), g.element_size()) == 4
    launch(x, g, total, power, *plan(*x.shape[:2], *total.shape, 1, wide, x.device, memory))


def launch(x: Tensor, g: Tensor, total: Tensor, power: int, tile: Tile, splits: int) -> None:
    """``products`` by this tile and this many ranges of examples."""
    x, g = _coalesced(x), _coalesced(g)
    settings = product_settings(x, g, tf32_products())

    def run(out: Tensor, splits: int, share: int, add: bool) -> None:
        grid = (ceiling(out.shape[1], tile.rows) * ceiling(out.shape[2], tile.columns), splits)
        sums[grid](x, g, out, *x.shape, g.shape[2], share, *x.stride(), *g.stride(), *out.stride(),
                   POWER=power, ADD=add, **settings, ROWS=tile.rows, COLUMNS=tile.columns, DEPTH=tile.depth,
                   num_warps=tile.warps, num_stages=tile.stages)

    accumulate(total, len(x), splits, run)


def tf32_products() -> bool:
    """Whether the user lets torch multiply float32 matrices in tf32, as the weight gradient would be."""
    setting = torch.backends.cuda.matmul
    return setting.fp32_precision == "tf32" if hasattr(setting, "fp32_precision") else setting.allow_tf32


def _powers(tensor: Tensor, total: Tensor, power: int) -> Tensor:
    wide = tensor.to(total.dtype)
    return wide.square() if power == 2 else wide.abs()


def _coalesced(tensor: Tensor) -> Tensor:
    """As it lies where positions or features lie side by side: a copy costs more than another stride."""
    return reachable(tensor if 1 in tensor.stride()[1:] else tensor.contiguous())


@triton.jit
def sums(x, g, out, examples, positions, columns, rows, share,
         x_example, x_position, x_column, g_example, g_position, g_row, out_split, out_row, out_column,
         POWER: tl.constexpr, ADD: tl.constexpr, WIDEN: tl.constexpr, PRECISION: tl.constexpr,
         ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr):
    """One tile of out[split], over the examples of one split.

    Examples and blocks of positions are one loop, so that loads run ahead across the border of an example.
    """
    tile, part = tl.program_id(0), tl.program_id(1)
    across = tl.cdiv(columns, COLUMNS)
    row = (tile // across) * ROWS + tl.arange(0, ROWS)
    column = (tile % across) * COLUMNS + tl.arange(0, COLUMNS)
    position = tl.arange(0, DEPTH)
    of_g = row[:, None] * g_row + position[None, :] * g_position
    of_x = position[:, None] * x_position + column[None, :] * x_column
    blocks = tl.cdiv(positions, DEPTH)
    first = part * share
    product = tl.zeros([ROWS, COLUMNS], tl.float32)
    total = tl.zeros([ROWS, COLUMNS], tl.float32)
    for step in range(tl.minimum(share, examples - first) * blocks):
        example = (first + step // blocks).to(tl.int64)
        start = (step % blocks) * DEPTH
        here = position < positions - start
        left = tl.load(g + example * g_example + start.to(tl.int64) * g_position + of_g,
                       mask=(row < rows)[:, None] & here[None, :], other=0.0)
        right = tl.load(x + example * x_example + start.to(tl.int64) * x_position + of_x,
                        mask=here[:, None] & (column < columns)[None, :], other=0.0)
        if WIDEN:
            left, right = left.to(tl.float32), right.to(tl.float32)
        product = tl.dot(left, right, product, input_precision=PRECISION)
        if start + DEPTH >= positions:
            total += raised(product, POWER)
            product = tl.zeros([ROWS, COLUMNS], tl.float32)
    place = out + part.to(tl.int64) * out_split + row[:, None].to(tl.int64) * out_row + column[None, :] * out_column
    inside = (row < rows)[:, None] & (column < columns)[None, :]
    if ADD:
        total += tl.load(place, mask=inside, other=0.0)
    tl.store(place, total, mask=inside)
