"""Two ways to write one layer's block: a Kronecker product of two small matrices, or eigenvectors with a spectrum.

Everything here is stacked by group (a grouped convolution has one block a group, other layers one in all): a change of
the weight is Δ [groups, outputs, inputs], whose last input is the constant 1 where a bias goes along.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from forgetting.curvature.base import Factor, proximal_share, sound

_CAP = 1e150  # of a proximal factor in float64: its square is finite
_HALVINGS = 80
_PRODUCTS = 16


@dataclass(frozen=True)
class Factors:
    """FΔ = GΔA, the Kronecker product A ⊗ G of a K-FAC block.

    Args:
        a: A, of the layer's inputs, [groups, inputs, inputs], symmetric and positive semi-definite; [groups, inputs]
            where it is diagonal, as a look-up's is.
        g: G, of the gradients at its outputs, [groups, outputs, outputs], symmetric and positive semi-definite.

    Raises:
        ValueError: for shapes that do not belong together, and for numbers that no such matrix has.

    Example:
        >>> block = Factors(torch.eye(3)[None], 2 * torch.eye(2)[None])
        >>> block.product(torch.ones(1, 2, 3)).tolist()
        [[[2.0, 2.0, 2.0], [2.0, 2.0, 2.0]]]
    """

    a: Tensor
    g: Tensor

    def __post_init__(self) -> None:
        square = self.a.ndim == 2 or (self.a.ndim == 3 and self.a.shape[1] == self.a.shape[2])
        if not square or self.g.ndim != 3 or self.g.shape[1] != self.g.shape[2] or len(self.a) != len(self.g):
            raise ValueError(f"factors are A [groups, inputs, inputs] (or [groups, inputs]) and G [groups, outputs, "
                             f"outputs], not {tuple(self.a.shape)} and {tuple(self.g.shape)}")
        for name, matrix, diagonal in (("A", self.a, self._diagonal_of_a), ("G", self.g, _diagonal(self.g))):
            sound(name, matrix, diagonal, "negative numbers on its diagonal")

    @property
    def size(self) -> tuple[int, int, int]:
        """Groups, outputs, inputs."""
        return len(self.g), self.g.shape[1], self.a.shape[1]

    @property
    def dtype(self) -> torch.dtype:
        """Of both factors together."""
        return torch.promote_types(self.a.dtype, self.g.dtype)

    @property
    def _diagonal_of_a(self) -> Tensor:
        return self.a if self.a.ndim == 2 else _diagonal(self.a)

    @cached_property
    def eigen(self) -> Eigen:
        """The same matrix by its eigenvectors, found in float64 once."""
        dtype = torch.promote_types(self.dtype, torch.float32)
        of_g, q_g = _eigen(self.g)
        of_a, q_a = (self.a.double(), None) if self.a.ndim == 2 else _eigen(self.a)
        spectrum = of_g.unsqueeze(2) * of_a.unsqueeze(1)
        return Eigen(q_a if q_a is None else q_a.to(dtype), q_g.to(dtype), spectrum.to(dtype))

    def product(self, delta: Tensor) -> Tensor:
        """GΔA."""
        a, g = self.a.to(delta.dtype), self.g.to(delta.dtype)
        return g @ (delta * a.unsqueeze(1) if a.ndim == 2 else delta @ a)

    def retract(self, delta: Tensor, a: Factor, last: Factor | None = None) -> Tensor:
        """aF(I + aF)⁻¹Δ; ``last`` is the factor of the last input, where it has one of its own."""
        return self.eigen.retract(delta, a, last)

    def diagonal(self) -> Tensor:
        """[groups, outputs, inputs]."""
        return _diagonal(self.g).unsqueeze(2) * self._diagonal_of_a.unsqueeze(1)

    def largest(self) -> float:
        """The largest eigenvalue."""
        of_a = self.a.double().amax(1) if self.a.ndim == 2 else torch.linalg.eigvalsh(self.a.double())[:, -1]
        return float((of_a * torch.linalg.eigvalsh(self.g.double())[:, -1]).clamp(min=0).max())

    def peak(self) -> float:
        """The largest eigenvalue or a little less, at the price of a few products with each factor."""
        of_a = self.a.double().amax(1) if self.a.ndim == 2 else _reached(self.a)
        return float((of_a * _reached(self.g)).clamp(min=0).max())

    def norm(self) -> float:
        """The Frobenius norm."""
        of_a, of_g = (matrix.double().flatten(1).norm(dim=1) for matrix in (self.a, self.g))
        return float((of_a * of_g).norm())

    def scaled(self, c: float) -> Factors:
        """c·F."""
        return Factors(self.a, self.g * c)

    def to(self, device: torch.device | str) -> Factors:
        """The same on another device."""
        return Factors(self.a.to(device), self.g.to(device))

    def leading(self) -> Factors:
        """The block without the last input."""
        return Factors(self.a[:, :-1, :-1], self.g)

    def last(self) -> Factors:
        """The block of the last input alone."""
        return Factors(self.a[:, -1:, -1:], self.g)

    def tensors(self) -> dict[str, Tensor]:
        """What a file holds of it."""
        return {"a": self.a, "g": self.g}


@dataclass(frozen=True)
class Eigen:
    """FΔ = Q_G(Λ ∘ Q_GᵀΔQ_A)Q_Aᵀ: eigenvectors of a Kronecker product, with any spectrum Λ ≥ 0 (EK-FAC).

    Args:
        q_a: Q_A, [groups, inputs, inputs], orthonormal columns; ``None`` stands for the identity.
        q_g: Q_G, [groups, outputs, outputs], orthonormal columns.
        spectrum: Λ, [groups, outputs, inputs].
        cut: whether the last input is no longer covered, so that Δ has one input less than Q_A.

    Raises:
        ValueError: for shapes that do not belong together, and a negative or non-finite spectrum.

    Example:
        >>> block = Eigen(None, torch.eye(2)[None], torch.tensor([[[1.0, 0.0], [0.0, 3.0]]]))
        >>> block.product(torch.ones(1, 2, 2)).tolist()
        [[[1.0, 0.0], [0.0, 3.0]]]
    """

    q_a: Tensor | None
    q_g: Tensor
    spectrum: Tensor
    cut: bool = False

    def __post_init__(self) -> None:
        groups, outputs, inputs = self.spectrum.shape
        sides = (self.q_g, outputs, "Q_G"), (self.q_a, inputs, "Q_A")
        for vectors, length, name in sides:
            if vectors is not None and vectors.shape != (groups, length, length):
                raise ValueError(f"a spectrum of shape {tuple(self.spectrum.shape)} needs {name} of shape "
                                 f"{(groups, length, length)}, not {tuple(vectors.shape)}")
        sound("the spectrum", self.spectrum, self.spectrum, "negative numbers")

    @property
    def size(self) -> tuple[int, int, int]:
        """Groups, outputs, inputs."""
        groups, outputs, inputs = self.spectrum.shape
        return groups, outputs, inputs - self.cut

    @property
    def dtype(self) -> torch.dtype:
        """Of the spectrum and its vectors together."""
        return torch.promote_types(self.spectrum.dtype, self.q_g.dtype)

    @property
    def eigen(self) -> Eigen:
        """Itself."""
        return self

    @property
    def rows(self) -> Tensor | None:
        """Q_A without what is cut away."""
        return self.q_a[:, :-1] if self.q_a is not None and self.cut else self.q_a

    def product(self, delta: Tensor) -> Tensor:
        """Q_G(Λ ∘ Q_GᵀΔQ_A)Q_Aᵀ."""
        return self._back(self.spectrum.to(delta.dtype) * self._turned(delta))

    def retract(self, delta: Tensor, a: Factor, last: Factor | None = None) -> Tensor:
        """aF(I + aF)⁻¹Δ; ``last`` is the factor of the last input, where it has one of its own.

        A row of Q_GᵀΔ then sees D = diag(a, …, a, last): with e the last input, I + DF is I + aF and a rank-one term
        e eᵀF, which Sherman and Morrison invert. What is cut away is a last input that may not move.
        """
        if last is None and not self.cut:
            return self._back(proximal_share(self.spectrum, a, self._turned(delta)))
        assert self.q_a is not None
        first, other = _capped(a), _capped(0.0 if last is None else last)
        turned, q = self._turned(delta).double(), self.q_a[:, -1:].double()
        pulled = self.spectrum.double()
        share = 1 / (1 + first * pulled)
        weight = q.square() * share
        common = (q * share * pulled * turned).sum(-1, True) / (weight + other * weight * pulled).sum(-1, True)
        moved = (first * pulled * turned + (other - first) * common * q) * share
        return self._back(moved).to(torch.promote_types(delta.dtype, torch.float32))

    def diagonal(self) -> Tensor:
        """[groups, outputs, inputs]."""
        left = self.q_g.square() @ self.spectrum
        return left if self.rows is None else left @ self.rows.square().mT

    def largest(self) -> float:
        """The largest eigenvalue; of a block that was cut, the root of the secular equation, a row of Q_GᵀΔ each."""
        if not self.cut:
            return float(self.spectrum.max())
        assert self.q_a is not None
        spectrum, weight = self.spectrum.double(), self.q_a[:, -1:].double().square()
        high, low = spectrum.topk(2).values.unbind(-1)
        for _ in range(_HALVINGS):
            middle = (high + low) / 2
            gap = spectrum - middle.unsqueeze(-1)
            above = torch.where(gap != 0, weight / gap, 0.0).sum(-1) < 0
            low, high = torch.where(above, middle, low), torch.where(above, high, middle)
        return float(high.max())

    def peak(self) -> float:
        """The largest eigenvalue."""
        return self.largest()

    def norm(self) -> float:
        """The Frobenius norm."""
        spectrum = self.spectrum.double()
        if self.rows is None:
            return float(spectrum.norm())
        rows = self.rows.double()
        return float((spectrum * (spectrum @ (rows.mT @ rows).square())).sum().sqrt())

    def scaled(self, c: float) -> Eigen:
        """c·F."""
        return replace(self, spectrum=self.spectrum * c)

    def to(self, device: torch.device | str) -> Eigen:
        """The same on another device."""
        q_a = self.q_a.to(device) if self.q_a is not None else None
        return Eigen(q_a, self.q_g.to(device), self.spectrum.to(device), self.cut)

    def leading(self) -> Eigen:
        """The block without the last input: the same vectors, with its row of Q_A left out."""
        return replace(self, cut=True)

    def last(self) -> Eigen:
        """The block of the last input alone."""
        assert self.q_a is not None
        weight = self.q_a[:, -1:].square()
        return Eigen(torch.ones_like(weight[..., :1]), self.q_g, (self.spectrum * weight).sum(-1, True))

    def tensors(self) -> dict[str, Tensor]:
        """What a file holds of it."""
        vectors = {} if self.q_a is None else {"q_a": self.q_a}
        return {**vectors, "q_g": self.q_g, "spectrum": self.spectrum}

    def _turned(self, delta: Tensor) -> Tensor:
        left = self.q_g.to(delta.dtype).mT @ delta
        return left if self.rows is None else left @ self.rows.to(delta.dtype)

    def _back(self, turned: Tensor) -> Tensor:
        left = self.q_g.to(turned.dtype) @ turned
        return left if self.rows is None else left @ self.rows.to(turned.dtype).mT


Matrix = Factors | Eigen


def matrix_of(tensors: Mapping[str, Any], cut: bool) -> Matrix:
    """What :meth:`tensors` gave, again a matrix."""
    if "spectrum" in tensors:
        return Eigen(tensors.get("q_a"), tensors["q_g"], tensors["spectrum"], cut)
    return Factors(tensors["a"], tensors["g"])


def _eigen(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues and vectors in float64; what is below the matrix's own rounding is 0, so that no pull makes it 1."""
    values, vectors = torch.linalg.eigh(matrix.double())
    noise = torch.finfo(matrix.dtype).eps * values[:, -1:]
    return torch.where(values > noise, values, 0.0), vectors


def _diagonal(matrix: Tensor) -> Tensor:
    return matrix.diagonal(dim1=-2, dim2=-1)


def _capped(a: Factor) -> Any:
    return a.double().clamp(max=_CAP) if isinstance(a, Tensor) else min(float(a), _CAP)


def _reached(matrix: Tensor) -> Tensor:
    """What power iteration finds from where the diagonal is largest, in float64: never above the largest eigenvalue."""
    matrix = matrix.to(torch.promote_types(matrix.dtype, torch.float32))
    vector = torch.nn.functional.one_hot(_diagonal(matrix).argmax(1), matrix.shape[1]).unsqueeze(2).to(matrix)
    for _ in range(_PRODUCTS):
        vector = torch.nn.functional.normalize(matrix @ vector, torch.inf, 1, torch.finfo(matrix.dtype).tiny)
    turned, vector = (matrix @ vector).double(), vector.double()
    return (vector * turned).sum((1, 2)) / vector.square().sum((1, 2)).clamp(min=1)
