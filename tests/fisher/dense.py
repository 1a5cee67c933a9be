"""The whole Fisher matrix of some parameters, one backward an example and direction, and matrices written out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from forgetting.curvature import Curvature


def fisher(model: nn.Module, inputs: Tensor, names: Sequence[str], kind: str) -> Tensor:
    """F over the concatenated parameters: mean over examples of Σ_k (Jᵀv_k)(Jᵀv_k)ᵀ, exact labels.

    ``kind``: "gaussian" with variance 1, whose v are the unit vectors of all outputs, or "categorical".
    """
    parameters = [dict(model.named_parameters())[name] for name in names]
    total = torch.zeros(())
    for n in range(len(inputs)):
        output = model(inputs[n : n + 1])
        if kind == "gaussian":
            weighted = [(1.0, one) for one in output.reshape(-1)]
        else:
            logs = output[0].log_softmax(-1)
            weighted = [(float(log.detach().exp()), log) for log in logs]
        for weight, score in weighted:
            gradients = torch.autograd.grad(score, parameters, retain_graph=True)
            whole = torch.cat([gradient.flatten() for gradient in gradients])
            total = total + weight * torch.outer(whole, whole)
    return total / len(inputs)


def written_out(matrix: Curvature, model: nn.Module, names: Sequence[str]) -> Tensor:
    """The block of some parameters as a square matrix, from its products with unit vectors."""
    shapes = [dict(model.named_parameters())[name].shape for name in names]
    sizes, block = [shape.numel() for shape in shapes], matrix.restricted(names)
    columns = []
    for unit in torch.eye(sum(sizes), dtype=torch.float64):
        parts = zip(names, unit.split(sizes), shapes, strict=True)
        product = block.product({name: part.reshape(shape) for name, part, shape in parts})
        columns.append(torch.cat([product[name].flatten() for name in names]))
    return torch.stack(columns, 1)


def error(found: Tensor, truth: Tensor) -> float:
    """Relative, in Frobenius norm."""
    return float((found - truth).norm() / truth.norm())
