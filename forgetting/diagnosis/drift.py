"""How far weights moved, by parameter and by module: relative to their size, and in the Fisher norm."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from forgetting import fisher
from forgetting.diagnosis.answers import Reader, Stream
from forgetting.diagnosis.comparison import ModuleDrift, ParameterDrift
from forgetting.diagnosis.likeness import Likeness
from forgetting.parameters import named


def importance(before: nn.Module, data: Stream, reader: Reader, labels: str, seed: int) -> Mapping[str, Tensor]:
    """The Fisher diagonal of the old model on the source data, of frozen weights too."""
    columns = None if reader.columns is None else reader.columns.tolist()
    return fisher.diagonal(before, data, labels=labels, outputs=columns, forward=reader.with_labels,
                           parameters=lambda _name: True, generator=torch.Generator().manual_seed(seed))


def by_parameter(before: nn.Module, after: nn.Module, matrix: Mapping[str, Tensor]) -> tuple[ParameterDrift, ...]:
    """Every parameter's drift."""
    old, new = named(before, trainable=False), named(after, trainable=False)
    return tuple(ParameterDrift(name, value.numel(), _relative(*_norms(value, new[name])),
                                float((matrix[name].double() * _moved(value, new[name]).square()).sum()))
                 for name, value in old.items())


def by_module(before: nn.Module, after: nn.Module, parameters: tuple[ParameterDrift, ...],
              likeness: Likeness) -> tuple[ModuleDrift, ...]:
    """The drift of every module that has parameters of its own."""
    old, new = named(before, trainable=False), named(after, trainable=False)
    owned: dict[str, list[ParameterDrift]] = defaultdict(list)
    for each in parameters:
        owned[each.name.rpartition(".")[0]].append(each)
    found = []
    for path, parts in owned.items():
        norms = [_norms(old[each.name], new[each.name]) for each in parts]
        moved, size = (sum(norm[place] ** 2 for norm in norms) ** 0.5 for place in (0, 1))
        found.append(ModuleDrift(path, type(before.get_submodule(path)).__name__, sum(each.weights for each in parts),
                                 _relative(moved, size), sum(each.fisher for each in parts), likeness.of(path)))
    return tuple(found)


def _moved(old: Tensor, new: Tensor) -> Tensor:
    """θ_after − θ_before in float64, on the old model's device."""
    return new.detach().to(old.device).double() - old.detach().double()


def _norms(old: Tensor, new: Tensor) -> tuple[float, float]:
    """‖θ_after − θ_before‖ and ‖θ_before‖."""
    return float(_moved(old, new).norm()), float(old.detach().double().norm())


def _relative(moved: float, size: float) -> float:
    return moved / size if size else moved
