"""The nearest block to decay·old + new, which is of neither form any more; and how far it is from that sum."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from forgetting.curvature.factors import Eigen, Factors, Matrix


def nearest(old: Matrix, new: Matrix, decay: float) -> tuple[Matrix, float]:
    """The nearest block to decay·old + new, and its Frobenius distance from that sum.

    Of two Kronecker products it is again one, otherwise eigenvectors and a spectrum. Where one covers the last input
    and the other does not, the other is 0 there.
    """
    groups, outputs, inputs = new.size
    if old.size[:2] != (groups, outputs) or abs(old.size[2] - inputs) > 1:
        raise ValueError(f"blocks of {old.size} and {new.size} groups, outputs and inputs are of different layers")
    diagonal = [_look_up(matrix) for matrix in (old, new)]
    if diagonal[0] != diagonal[1]:
        raise ValueError("one block is a look-up's, with a diagonal A, and the other is not: they do not blend")
    inputs = max(old.size[2], inputs)
    if isinstance(old, Factors) and isinstance(new, Factors):
        return _of_factors(_widened(old, inputs), _widened(new, inputs), decay)
    return _of_eigen([(decay, old.eigen), (1.0, new.eigen)], inputs)


def _look_up(matrix: Matrix) -> bool:
    return matrix.a.ndim == 2 if isinstance(matrix, Factors) else matrix.q_a is None


def _widened(matrix: Factors, inputs: int) -> Factors:
    """The same factors with a last input that has no importance."""
    if matrix.size[2] == inputs:
        return matrix
    return Factors(torch.nn.functional.pad(matrix.a, (0, 1, 0, 1)), matrix.g)


def _of_factors(old: Factors, new: Factors, decay: float) -> tuple[Matrix, float]:
    """The nearest Kronecker product, group by group.

    Rearranged, a Kronecker product is a matrix of rank one and the sum of two has rank two, within the span of the
    factors: M = diag(m) in their unit vectors, whose Gram matrices are [[1, α], [α, 1]] and [[1, β], [β, 1]]. The best
    coefficients of A are the leading eigenvector of M K_G M K_A; this matrix has no negative entry, so by Perron and
    Frobenius neither has the vector. The other eigenvalue is the squared distance, here as determinant ÷ leading one.
    """
    (old_a, new_a, size_a, apart_a), (old_g, new_g, size_g, apart_g) = (
        _units(left, right) for left, right in ((old.a, new.a), (old.g, new.g)))
    first, second = decay * size_a[0] * size_g[0], size_a[1] * size_g[1]
    alpha, beta = 1 - apart_a, 1 - apart_g
    shared = first * second * alpha * beta
    p, q = first**2 + shared, first**2 * alpha + first * second * beta
    r, s = first * second * beta + second**2 * alpha, second**2 + shared
    root = (((first**2 - second**2) / 2) ** 2 + q * r).sqrt()
    gap = (first**2 - second**2).abs() / 2 + root  # the leading eigenvalue less the smaller of p and s
    of_old, of_new = torch.where(first >= second, gap, q), torch.where(first >= second, r, gap)
    of_new = torch.where((of_old == 0) & (of_new == 0), 1.0, of_new)
    largest = torch.maximum(of_old, of_new)
    of_old, of_new = of_old / largest, of_new / largest
    length = of_old**2 + of_new**2 + 2 * alpha * of_old * of_new
    and_old, and_new = first * (of_old + alpha * of_new) / length, second * (alpha * of_old + of_new) / length
    dtype = torch.promote_types(torch.promote_types(old.dtype, new.dtype), torch.float32)
    leading = (p + s) / 2 + root
    determinant = (first * second) ** 2 * apart_a * (1 + alpha) * apart_g * (1 + beta)
    distance = torch.where(leading > 0, determinant / leading, 0.0)
    matrix = Factors(_combined(of_old, old_a, of_new, new_a, dtype), _combined(and_old, old_g, and_new, new_g, dtype))
    return matrix, float(distance.sum().sqrt())


def _units(old: Tensor, new: Tensor) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor], Tensor]:
    """Both at norm 1 in float64, their norms, and 1 − ⟨old, new⟩ without cancellation; per group."""
    old, new = old.double().to(new.device), new.double()
    sizes = tuple(matrix.flatten(1).norm(dim=1) for matrix in (old, new))
    old, new = (matrix / size.clamp(min=torch.finfo(torch.float64).tiny).view(-1, *[1] * (matrix.ndim - 1))
                for matrix, size in zip((old, new), sizes, strict=True))
    apart = ((old - new).flatten(1).square().sum(1) / 2).clamp(max=1)
    return old, new, (sizes[0], sizes[1]), apart


def _combined(c: Tensor, old: Tensor, d: Tensor, new: Tensor, dtype: torch.dtype) -> Tensor:
    shape = (-1, *[1] * (old.ndim - 1))
    return (c.view(shape) * old + d.view(shape) * new).to(dtype)


def _of_eigen(parts: list[tuple[float, Eigen]], inputs: int) -> tuple[Matrix, float]:
    """The nearest spectrum in the best of three pairs of bases: the new one's, the old one's, and the eigenvectors of
    the sum's partial traces. In given bases it is the sum's diagonal there, so the trace is the sum's in each.
    """
    device, dtype = parts[1][1].spectrum.device, parts[1][1].dtype
    spread = [(weight, _Spread.of(matrix.to(device), inputs)) for weight, matrix in parts]
    bases = [(one.rows, one.q_g) for _, one in reversed(spread) if one.whole] + [_partial(spread)]
    best: tuple[Tensor | None, Tensor] = bases[0]
    spectrum = torch.zeros(())
    for basis in bases:
        seen = sum((weight * one.seen_from(*basis) for weight, one in spread), torch.zeros((), device=device))
        if spectrum.ndim == 0 or float(seen.norm()) > float(spectrum.norm()) * (1 + 1e-12):
            best, spectrum = basis, seen
    norm = sum(v * w * float((one.spectrum * other.seen_from(one.rows, one.q_g)).sum())
               for v, one in spread for w, other in spread)
    distance = max(0.0, norm - float(spectrum.square().sum()))
    dtype = torch.promote_types(dtype, torch.float32)
    q_a = best[0].to(dtype) if best[0] is not None else None
    return Eigen(q_a, best[1].to(dtype), spectrum.to(dtype)), distance**0.5


@dataclass(frozen=True)
class _Spread:
    """(Q_A ⊗ Q_G) Λ (Q_A ⊗ Q_G)ᵀ in float64, Q_A [groups, inputs, columns]; ``whole``: Q_A is orthonormal."""

    rows: Tensor | None
    q_g: Tensor
    spectrum: Tensor
    whole: bool

    @staticmethod
    def of(matrix: Eigen, inputs: int) -> _Spread:
        """A block over this many inputs; what it does not cover has no importance."""
        rows, spectrum, whole = None, matrix.spectrum.double(), not matrix.cut
        if matrix.q_a is not None:
            rows = matrix.q_a.double()[:, : matrix.size[2]]
            short = inputs - rows.shape[1]
            rows = torch.nn.functional.pad(rows, (0, 0 if matrix.cut else short, 0, short))
            if short and whole:
                rows[:, -1, -1] = 1
                spectrum = torch.nn.functional.pad(spectrum, (0, 1))
        return _Spread(rows, matrix.q_g.double(), spectrum, whole)

    def seen_from(self, q_a: Tensor | None, q_g: Tensor) -> Tensor:
        """The diagonal of this matrix in other coordinates."""
        left = (q_g.mT @ self.q_g).square() @ self.spectrum
        if self.rows is None and q_a is None:
            return left
        assert self.rows is not None
        assert q_a is not None
        return left @ (q_a.mT @ self.rows).square().mT


def _partial(spread: list[tuple[float, _Spread]]) -> tuple[Tensor | None, Tensor]:
    """Eigenvectors of the sum's two partial traces."""
    of_a, of_g = [], []
    for weight, one in spread:
        outputs, inputs = weight * one.spectrum.sum(1), weight * one.spectrum
        if one.rows is not None:
            of_a.append((one.rows * outputs.unsqueeze(1)) @ one.rows.mT)
            inputs = inputs * one.rows.square().sum(1).unsqueeze(1)
        of_g.append((one.q_g * inputs.sum(2).unsqueeze(1)) @ one.q_g.mT)
    q_a = torch.linalg.eigh(torch.stack(of_a).sum(0)).eigenvectors if of_a else None
    return q_a, torch.linalg.eigh(torch.stack(of_g).sum(0)).eigenvectors
