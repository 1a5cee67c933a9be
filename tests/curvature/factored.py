"""Kronecker-factored matrices of every kind, small enough to be written out, and how to write them out."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from forgetting.curvature import Block, Curvature, Diagonal, Eigen, Factors, Kronecker

SHAPES = {"linear.weight": (3, 2), "linear.bias": (3,), "conv.weight": (4, 2, 2), "conv.bias": (4,),
          "table.weight": (5, 2), "turned.weight": (2, 3), "turned.bias": (3,), "norm.weight": (4,)}
SIZES = {"linear": (1, 3, 3), "conv": (2, 2, 5), "table": (1, 2, 5), "turned": (1, 3, 3)}


def semidefinite(groups: int, size: int, seed: int, rank: int | None = None) -> Tensor:
    """Random symmetric matrices [groups, size, size] of a rank."""
    roots = torch.randn(groups, size, size if rank is None else rank, dtype=torch.float64,
                        generator=torch.Generator().manual_seed(seed))
    return roots @ roots.mT


def orthonormal(groups: int, size: int, seed: int) -> Tensor:
    """Random rotations."""
    return torch.linalg.qr(semidefinite(groups, size, seed))[0]


def matrix_of(kind: str, layer: str, seed: int, rank: int | None = None) -> Factors | Eigen:
    """A layer's block: a Kronecker product, or rotations with a spectrum of their own."""
    groups, outputs, inputs = SIZES[layer]
    seed = 100 * seed + len(layer)
    if kind == "kfac":
        a = semidefinite(groups, inputs, seed, rank)
        return Factors(a.diagonal(dim1=1, dim2=2) if layer == "table" else a, semidefinite(groups, outputs, seed + 1))
    spectrum = torch.rand(groups, outputs, inputs, dtype=torch.float64,
                          generator=torch.Generator().manual_seed(seed)).pow(4)
    return Eigen(None if layer == "table" else orthonormal(groups, inputs, seed), orthonormal(groups, outputs, seed),
                 spectrum)


def factored(kind: str = "kfac", seed: int = 0, rank: int | None = None) -> Kronecker:
    """A linear map, a convolution with two groups, a look-up, a weight stored inputs first, and a diagonal."""
    blocks = [
        Block(f"{layer}.weight", torch.Size(SHAPES[f"{layer}.weight"]), matrix_of(kind, layer, seed, rank),
              f"{layer}.bias" if layer != "table" else None, layer in ("table", "turned"))
        for layer in SIZES
    ]
    generator = torch.Generator().manual_seed(seed)
    return Kronecker(blocks, Diagonal({"norm.weight": torch.rand(4, dtype=torch.float64, generator=generator)}),
                     examples=7, labels="exact", routes=dict.fromkeys(SHAPES, kind))


def changes(seed: int, names: object = SHAPES, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    """A random change of every parameter."""
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(SHAPES[name], dtype=torch.float64, generator=generator).to(dtype) for name in names}


def flat(delta: dict[str, Tensor], names: object) -> Tensor:
    """One vector."""
    return torch.cat([delta[name].double().flatten() for name in names])


def written_out(matrix: Curvature, shapes: dict = SHAPES) -> Tensor:
    """F as a square matrix over ``names()`` in their order, from its products with unit vectors."""
    names = matrix.names()
    sizes = [math.prod(shapes[name]) for name in names]
    columns = [
        flat(matrix.product({name: part.reshape(shapes[name]) for name, part in
                             zip(names, unit.split(sizes), strict=True)}), names)
        for unit in torch.eye(sum(sizes), dtype=torch.float64)
    ]
    return torch.stack(columns, 1)


def by_hand(matrix: Kronecker, layer: str) -> Tensor:
    """A layer's block from its definition, rows and columns ordered as [groups, outputs, inputs]."""
    block = next(block for block in matrix.blocks if block.weight == f"{layer}.weight").matrix
    groups, outputs, inputs = block.size
    whole = torch.zeros(groups, outputs, inputs, groups, outputs, inputs, dtype=torch.float64)
    for group in range(groups):
        if isinstance(block, Factors):
            a = torch.diag(block.a[group]) if block.a.ndim == 2 else block.a[group]
            product = torch.kron(block.g[group].contiguous(), a.contiguous())
        else:
            q_a = torch.eye(inputs, dtype=torch.float64) if block.q_a is None else block.q_a[group]
            vectors = torch.kron(block.q_g[group].contiguous(), q_a.contiguous())
            product = vectors @ torch.diag(block.spectrum[group].flatten()) @ vectors.T
        whole[group, :, :, group] = product.view(outputs, inputs, outputs, inputs)
    return whole.reshape(groups * outputs * inputs, -1)
