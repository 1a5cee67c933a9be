"""Linear maps: y = xWᵀ + b, ``addmm`` as GPT-2's Conv1D uses it, and products with a matrix on the right."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor
from torch.nn import functional

from forgetting.fisher import kernels
from forgetting.fisher.rules.base import Call, Separable, Sources, Totals, add_in_tiles, add_powers, powered, widened

_CACHE = 3 * 2**18  # bytes a thread: a tile of per-example gradients of this size is squared before it leaves the cache
_SMALL = 2**15  # bytes: below this the call costs more than the product, so several examples share one


def cached(memory: int) -> int:
    """The bytes of ``memory`` that the threads' caches hold together."""
    return min(memory, _CACHE * torch.get_num_threads())


def products(x: Tensor, g: Tensor, total: Tensor, power: int, memory: int) -> None:
    """total[o, i] += Σₙ |Σₜ g[n,t,o]·x[n,t,i]|^power; x [n, t, i], g [n, t, o]."""
    if x.shape[1] == 1:
        total.addmm_(powered(g[:, 0], power).T, powered(x[:, 0], power))
        return
    row = max(1, x.shape[-1] * x.element_size())
    size = total.shape[0] * row
    if size <= _SMALL:
        add_in_tiles(total, len(x), max(1, cached(memory) // max(1, size)),
                     lambda part: torch.bmm(g[part].transpose(1, 2), x[part]), power)
    else:
        _by_rows(x, g, total, power, max(1, cached(memory) // row))


def _by_rows(x: Tensor, g: Tensor, total: Tensor, power: int, rows: int) -> None:
    """One example's gradient at a time, as many of its rows as stay in the cache."""
    parts = -(-total.shape[0] // rows)
    rows = -(-total.shape[0] // parts)
    scratch = x.new_empty(rows, x.shape[-1])
    for start in range(0, total.shape[0], rows):
        part = total[start : start + rows]
        product = scratch[: len(part)]
        for gradient, inputs in zip(g[..., start : start + rows].mT.unbind(), x.unbind(), strict=True):
            torch.mm(gradient, inputs, out=product)
            part.addcmul_(product, product) if power == 2 else part.add_(product.abs_())


def _positions(tensor: Tensor) -> Tensor:
    """[examples, positions, features]."""
    return tensor if tensor.ndim == 3 else tensor.reshape(len(tensor), -1, tensor.shape[-1])


class Linear(Separable):
    """``F.linear``: one position → a product of squares; several → one weight gradient an example, in tiles."""

    name = "linear"
    signatures = {functional.linear: ("input", "weight", "bias")}
    transposed = False

    def supports(self, call: Call, slots: Collection[str]) -> bool:
        return call["input"].ndim >= 2 and call["weight"].ndim == 2

    def leading(self, call: Call) -> int:
        return call["input"].ndim - 1

    def accumulate(self, sources: Sources, gradient: Tensor, call: Call, totals: Totals, power: int,
                   memory: int) -> None:
        g = _positions(gradient)
        if g.shape[1] == 1:
            self._outer(sources, powered(widened(g[:, 0]), power), totals, power)
            return
        if "weight" in totals:
            total = totals["weight"].T if self.transposed else totals["weight"]
            x = _positions(sources["input"])
            if kernels.serve(x, g):
                from forgetting.fisher.kernels import linear

                linear.products(x, g, total, power, memory)
            else:
                products(widened(x), widened(g), total, power, memory)
        if "bias" in totals:
            add_powers(totals["bias"], widened(g).sum(1), power)

    def _outer(self, sources: Sources, powers: Tensor, totals: Totals, power: int) -> None:
        """One position: the power of an outer product is the outer product of the powers."""
        if "weight" in totals:
            x = powered(widened(_positions(sources["input"])[:, 0]), power)
            totals["weight"].addmm_(*(x.T, powers) if self.transposed else (powers.T, x))
        if "bias" in totals:
            totals["bias"].add_(powers.sum(0))

    def separates(self, sources: Sources) -> bool:
        x = sources.get("input")
        return x is not None and x[0].numel() == x.shape[-1]

    def accumulate_powers(self, sources: Sources, powers: Tensor, totals: Totals, power: int) -> None:
        self._outer(sources, _positions(powers)[:, 0], totals, power)

    def add_gradients(self, sources: Sources, gradient: Tensor, call: Call, slot: str, out: Tensor) -> None:
        g = widened(_positions(gradient))
        if slot == "bias":
            out.add_(g.sum(1))
            return
        x = widened(_positions(sources["input"]))
        (out.transpose(1, 2) if self.transposed else out).baddbmm_(g.transpose(1, 2), x)


class Addmm(Linear):
    """``torch.addmm(bias, x, weight)``: a linear map with the weight stored the other way round."""

    name = "addmm"
    signatures = {torch.addmm: ("bias", "input", "weight")}
    transposed = True

    def supports(self, call: Call, slots: Collection[str]) -> bool:
        named = {"bias", "input", "weight"} <= call.keys()
        return named and call.get("beta", 1) == 1 and call.get("alpha", 1) == 1 and call["bias"].ndim == 1


class Matmul(Linear):
    """``x @ W`` with the parameter on the right."""

    name = "matmul"
    signatures = dict.fromkeys((torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.mm, Tensor.mm),
                               ("input", "weight"))
    slots = ("weight",)
    transposed = True
