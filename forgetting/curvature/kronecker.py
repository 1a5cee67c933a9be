"""Kronecker-factored curvature: a block a layer, its weight and bias together; a diagonal for the rest."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from forgetting.curvature.base import Curvature, Factor
from forgetting.curvature.blocks import Block
from forgetting.curvature.diagonal import Diagonal
from forgetting.parameters import Parameters

_FORMAT = "forgetting.kronecker/1"
_REST = "rest/"


class Kronecker(Curvature):
    """One block a layer, A ⊗ G (K-FAC) or its eigenvectors with a spectrum (EK-FAC); the other parameters a diagonal.

    Unlike a :class:`Diagonal`, a block knows which changes of a layer's weights make up for each other. A weight's
    entry (o, i) and another's (o', i') interact as A[i, i']·G[o, o'], A the second moment of the layer's inputs and G
    of the gradients at its outputs. :func:`forgetting.fisher.kronecker` estimates one.

    Args:
        blocks: one a layer.
        rest: the diagonal of the parameters without factors: norms, raw and tied parameters.
        examples: how many examples the estimate is a mean over, where it is one.
        labels: whose labels it was estimated with.
        routes: name -> what computed it.
        distances: weight -> how far, in Frobenius norm, a blended block is at most from the sum that it stands for.

    Raises:
        ValueError: where a parameter is covered twice.

    **Cost**: K-FAC: A and G, inputs² + outputs² a layer; EK-FAC: as much, and one copy of the weights. A product or a
    quadratic form multiplies by both; K-FAC's first proximal step finds their eigenvectors.

    **Reference**: Martens & Grosse 2015 (arXiv 1503.05671); George et al. 2018 (arXiv 1806.03884).

    Example:
        >>> from forgetting.curvature import Factors
        >>> layer = Block("weight", torch.Size([1, 2]), Factors(torch.ones(1, 2, 2), torch.ones(1, 1, 1)))
        >>> matrix = Kronecker([layer])
        >>> float(matrix.quadratic({"weight": torch.tensor([[1.0, -1.0]])}))
        0.0
        >>> matrix.trace(), round(matrix.largest(), 4)
        (2.0, 2.0)
    """

    def __init__(
        self,
        blocks: Iterable[Block],
        rest: Diagonal | None = None,
        *,
        examples: int | None = None,
        labels: str | None = None,
        routes: Mapping[str, str] | None = None,
        distances: Mapping[str, float] | None = None,
    ) -> None:
        self.blocks = tuple(blocks)
        self.rest = rest if rest is not None else Diagonal({})
        self.examples = examples
        self.labels = labels
        self.routes = dict(routes or {})
        self.distances = dict(distances or {})
        names = self.names()
        twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
        if twice:
            raise ValueError(f"{', '.join(map(repr, twice))} would be covered twice; a parameter belongs to one block "
                             "or to the diagonal")

    def __repr__(self) -> str:
        return (f"Kronecker({len(self.blocks)} blocks, {len(self.rest)} parameters on the diagonal, "
                f"labels={self.labels}, examples={self.examples})")

    def names(self) -> tuple[str, ...]:
        return (*(name for block in self.blocks for name in block.names), *self.rest)

    def quadratic(self, delta: Mapping[str, Tensor]) -> Tensor:
        terms = [block.quadratic(delta) for block in self.blocks]
        if len(self.rest):
            terms.append(self.rest.quadratic(delta))
        if not terms:
            return torch.zeros(())
        dtype = max((term.dtype for term in terms), key=lambda dtype: torch.finfo(dtype).bits)
        return torch.stack([term.to(terms[0].device, dtype) for term in terms]).sum()

    def product(self, delta: Mapping[str, Tensor]) -> Parameters:
        return _joined(block.product(delta) for block in self.blocks) | self.rest.product(delta)

    def retract(self, delta: Mapping[str, Tensor], a: Mapping[str, Factor] | Factor) -> Parameters:
        return _joined(block.retract(delta, a) for block in self.blocks) | self.rest.retract(delta, a)

    def blend(self, other: Curvature, decay: float) -> Kronecker:
        """The nearest matrix of this kind to decay·self + other, layer by layer; ``errors`` says how near.

        Two Kronecker products give the nearest Kronecker product, whose coefficients in both sides' factors are never
        negative. Where one has a spectrum, the sum is seen in the better of the two pairs of eigenvectors and the
        sum's own, which keeps its trace.
        """
        if not isinstance(other, Kronecker):
            raise TypeError(f"a Kronecker blends with another Kronecker, not with {type(other).__name__}")
        old, new = {block.weight: block for block in self.blocks}, {block.weight: block for block in other.blocks}
        blocks, distances = [], dict(other.distances)
        for weight in dict.fromkeys((*old, *new)):
            carried = decay * self.distances.get(weight, 0.0) + other.distances.get(weight, 0.0)
            if weight not in new:
                blocks.append(old[weight].scaled(decay))
            elif weight not in old:
                blocks.append(new[weight])
            else:
                block, distance = old[weight].blended(new[weight], decay)
                blocks.append(block)
                carried += distance
            distances[weight] = carried
        rest = _without_unused(self.rest, new).blend(_without_unused(other.rest, old), decay)
        return Kronecker(blocks, rest, examples=other.examples, labels=other.labels, routes=self.routes | other.routes,
                         distances=distances)

    @property
    def errors(self) -> dict[str, float]:
        """Weight -> how far a blended block is at most from the sum that it stands for, ÷ its own Frobenius norm."""
        norms = {block.weight: block.matrix.norm() for block in self.blocks if self.distances.get(block.weight)}
        return {name: self.distances[name] / norm if norm else float("inf") for name, norm in norms.items()}

    def scaled(self, c: float) -> Kronecker:
        distances = {name: distance * c for name, distance in self.distances.items()}
        return self._with((block.scaled(c) for block in self.blocks), self.rest.scaled(c), distances)

    def trace(self) -> float:
        blocks = sum(float(value.sum(dtype=torch.float64)) for block in self.blocks
                     for value in block.diagonal().values())
        return blocks + self.rest.trace()

    def largest(self) -> float:
        return max([self.rest.largest(), *(block.matrix.largest() for block in self.blocks)])

    def peaks(self) -> dict[tuple[str, ...], float]:
        return {block.names: block.matrix.peak() for block in self.blocks} | self.rest.peaks()

    def diagonal(self) -> Parameters:
        return _joined(block.diagonal() for block in self.blocks) | self.rest.diagonal()

    def to(self, device: Mapping[str, torch.device] | torch.device | str) -> Kronecker:
        def place(block: Block) -> torch.device | str:
            return device[block.weight] if isinstance(device, Mapping) else device

        return self._with((block.to(place(block)) for block in self.blocks), self.rest.to(device), self.distances)

    def restricted(self, names: Collection[str]) -> Kronecker:
        missing = sorted(set(names) - set(self.names()))
        if missing:
            raise KeyError(f"the matrix does not cover {', '.join(map(repr, missing))}")
        blocks = [block.restricted(names) for block in self.blocks if not set(names).isdisjoint(block.names)]
        distances = {new.weight: self.distances[old.weight] for old in self.blocks
                     for new in blocks if new.weight in old.names and old.weight in self.distances}
        kept = self._with(blocks, self.rest.restricted([name for name in self.rest if name in names]), distances)
        kept.routes = {name: route for name, route in self.routes.items() if name in names}
        return kept

    def state_dict(self) -> dict[str, Any]:
        blocks = {block.weight: block.state_dict() for block in self.blocks}
        return {"curvature": "Kronecker", "blocks": blocks, "rest": dict(self.rest), **self._about()}

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> Kronecker:
        blocks = [Block.from_state_dict(weight, found) for weight, found in state["blocks"].items()]
        about = {name: state[name] for name in ("examples", "labels", "routes", "distances")}
        return cls(blocks, Diagonal(state["rest"]), **about)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the matrix as a safetensors file, which :meth:`load` and any other program can read."""
        tensors = {f"{_REST}{name}": value for name, value in self.rest.items()}
        plain: dict[str, Any] = {}
        for block in self.blocks:
            state = block.state_dict()
            held = {key: value for key, value in state.items() if isinstance(value, Tensor)}
            tensors |= {f"{block.weight}/{key}": value for key, value in held.items()}
            plain[block.weight] = {key: state[key] for key in state.keys() - held.keys()} | {"tensors": sorted(held)}
        about = {"format": _FORMAT, "about": json.dumps({**self._about(), "blocks": plain})}
        temporary = Path(f"{os.fspath(path)}.part")
        copies = {name: value.clone(memory_format=torch.contiguous_format) for name, value in tensors.items()}
        save_file(copies, temporary, metadata=about)  # copies: what shares memory, the format refuses
        temporary.replace(path)

    @classmethod
    def load(cls, path: str | os.PathLike[str], device: str = "cpu") -> Kronecker:
        """Read what :meth:`save` wrote.

        Raises:
            ValueError: where the file is truncated or of another kind.
        """
        try:
            with safe_open(path, framework="pt", device=device) as file:
                about = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise ValueError(f"{path} is not a whole safetensors file ({error}); save the matrix again") from error
        if about.get("format") != _FORMAT:
            raise ValueError(f"{path} has the format {about.get('format')!r}, expected {_FORMAT!r} (Kronecker.save); "
                             "what `forgetting fisher` writes is read by Anchored.load of forgetting.curvature")
        state = json.loads(about["about"])
        for weight, plain in state["blocks"].items():
            plain |= {key: tensors[f"{weight}/{key}"] for key in plain.pop("tensors")}
        rest = {name.removeprefix(_REST): value for name, value in tensors.items() if name.startswith(_REST)}
        return cls.from_state_dict({**state, "rest": rest})

    def _about(self) -> dict[str, Any]:
        return {"examples": self.examples, "labels": self.labels, "routes": dict(self.routes),
                "distances": dict(self.distances)}

    def _with(self, blocks: Iterable[Block], rest: Diagonal, distances: Mapping[str, float]) -> Kronecker:
        """Other numbers of the same origin."""
        return Kronecker(blocks, rest, examples=self.examples, labels=self.labels, routes=self.routes,
                         distances=distances)


def _joined(parts: Iterable[Parameters]) -> Parameters:
    return {name: value for part in parts for name, value in part.items()}


def _without_unused(rest: Diagonal, blocks: Mapping[str, Block]) -> Diagonal:
    """A diagonal without the parameters that the other matrix has factors of, which must be without importance here."""
    factored = {name for block in blocks.values() for name in block.names}
    for name in factored & set(rest):
        if rest[name].any():
            raise ValueError(f"{name!r} has factors in one matrix and a diagonal in the other, and both matter: they "
                             "have no sum of either kind; estimate both in the same way, or leave it out of both")
    return Diagonal({name: value for name, value in rest.items() if name not in factored})
