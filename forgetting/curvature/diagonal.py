"""A diagonal matrix: one importance a weight. The matrix of EWC, SI, MAS and their relatives."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from forgetting.curvature.base import Curvature, Factor, factor, proximal_share, sound
from forgetting.parameters import Parameters

_FORMAT = "forgetting.diagonal/1"


class Diagonal(Curvature, Mapping[str, Tensor]):
    """F = diag(f), a mapping from parameter name to a non-negative tensor of the parameter's shape.

    Args:
        values: name -> importance, each entry finite and ≥ 0. Not copied.
        examples: how many examples the estimate is a mean over, where it is one.
        labels: whose labels it was estimated with.
        routes: name -> which rule computed it.
        standard_error: of the trace, where it was asked for.

    Raises:
        ValueError: for a negative importance, with its name; :class:`NotFinite` for one that is not finite.

    **Cost**: one copy of the parameters.

    Example:
        >>> fisher = Diagonal({"w": torch.tensor([1.0, 0.0])})
        >>> float(fisher.quadratic({"w": torch.tensor([3.0, 5.0])}))
        9.0
        >>> fisher.trace()
        1.0
    """

    def __init__(
        self,
        values: Mapping[str, Tensor],
        *,
        examples: int | None = None,
        labels: str | None = None,
        routes: Mapping[str, str] | None = None,
        standard_error: float | None = None,
    ) -> None:
        for name, value in values.items():
            sound(f"the importance of {name!r}", value, value, "negative numbers")
        self._values: Mapping[str, Tensor] = {name: value.detach() for name, value in values.items()}
        self.examples = examples
        self.labels = labels
        self.routes = dict(routes or {})
        self.standard_error = standard_error

    def __getitem__(self, name: str) -> Tensor:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        count = sum(value.numel() for value in self._values.values())
        return f"Diagonal({len(self)} parameters, {count} weights, labels={self.labels}, examples={self.examples})"

    def names(self) -> tuple[str, ...]:
        return tuple(self._values)

    def elementwise(self) -> Mapping[str, Any]:
        return self._values

    def quadratic(self, delta: Mapping[str, Tensor]) -> Tensor:
        terms = [(delta[name].square() * value).sum() for name, value in self._values.items()]
        return torch.stack(terms).sum() if terms else torch.zeros(())

    def product(self, delta: Mapping[str, Tensor]) -> Parameters:
        if not self._values:
            return {}
        products = torch._foreach_mul([delta[name] for name in self._values], list(self._values.values()))
        return dict(zip(self._values, products, strict=True))

    def retract(self, delta: Mapping[str, Tensor], a: Mapping[str, Factor] | Factor) -> Parameters:
        return {name: proximal_share(value, factor(a, name), delta[name]) for name, value in self._values.items()}

    def blend(self, other: Curvature, decay: float) -> Diagonal:
        if not isinstance(other, Diagonal):
            raise TypeError(f"a Diagonal blends with another Diagonal, not with {type(other).__name__}")
        blended = {name: value * decay for name, value in self.items()}
        for name, value in other.items():
            blended[name] = blended[name].to(value.device) + value if name in blended else value
        return Diagonal(blended, examples=other.examples, labels=other.labels, routes=other.routes)

    def scaled(self, c: float) -> Diagonal:
        values = {name: value * c for name, value in self._values.items()}
        return Diagonal(values, examples=self.examples, labels=self.labels, routes=self.routes)

    def trace(self) -> float:
        return sum(float(value.sum(dtype=torch.float64)) for value in self._values.values())

    def largest(self) -> float:
        return max(self.peaks().values(), default=0.0)

    def peaks(self) -> dict[tuple[str, ...], float]:
        return {(name,): float(value.max()) if value.numel() else 0.0 for name, value in self._values.items()}

    def diagonal(self) -> Parameters:
        return dict(self._values)

    def to(self, device: Mapping[str, torch.device] | torch.device | str) -> Diagonal:
        values = {
            name: value.to(device[name] if isinstance(device, Mapping) else device)
            for name, value in self._values.items()
        }
        return Diagonal(values, examples=self.examples, labels=self.labels, routes=self.routes)

    def restricted(self, names: Collection[str]) -> Diagonal:
        values = {name: self._values[name] for name in names}
        routes = {name: route for name, route in self.routes.items() if name in values}
        return Diagonal(values, examples=self.examples, labels=self.labels, routes=routes)

    def state_dict(self) -> dict[str, Any]:
        return {"curvature": "Diagonal", "values": dict(self._values), **self.about()}

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> Diagonal:
        return cls(state["values"], examples=state["examples"], labels=state["labels"], routes=state["routes"],
                   standard_error=state.get("standard_error"))  # states of 0.1 have none

    def about(self) -> dict[str, Any]:
        """What is known of the estimate beside its values: examples, labels, routes and standard error."""
        return {"examples": self.examples, "labels": self.labels, "routes": dict(self.routes),
                "standard_error": self.standard_error}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the matrix as a safetensors file, which :meth:`load` and any other program can read."""
        about = {"format": _FORMAT, "about": json.dumps(self.about())}
        temporary = Path(f"{os.fspath(path)}.part")
        copies = {name: value.clone(memory_format=torch.contiguous_format) for name, value in self._values.items()}
        save_file(copies, temporary, metadata=about)  # copies: names may share memory, which the format refuses
        temporary.replace(path)

    @classmethod
    def load(cls, path: str | os.PathLike[str], device: str = "cpu") -> Diagonal:
        """Read what :meth:`save` wrote.

        Raises:
            ValueError: where the file is truncated or of another kind.
        """
        try:
            with safe_open(path, framework="pt", device=device) as file:
                about = file.metadata() or {}
                values = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise ValueError(f"{path} is not a whole safetensors file ({error}); save the matrix again") from error
        if about.get("format") != _FORMAT:
            raise ValueError(f"{path} has the format {about.get('format')!r}, expected {_FORMAT!r} (Diagonal.save); "
                             "what `forgetting fisher` writes is read by Anchored.load of forgetting.curvature")
        return cls(values, **json.loads(about["about"]))
