"""How far an estimate is from the single-example oracle in float64."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from benchmarks.speed.models import Batch, Row
from tests import oracles

FLOOR, LOOPS, NEGLIGIBLE = 1e-5, 2.0, 1e-12
"""A float32 estimate is right when every tensor's relative error is within the larger of the floor and this many times
the float32 single-example loop's; a tensor with this small a share of the whole is held against the whole."""
FLOORS = {torch.float32: FLOOR, torch.bfloat16: 5e-2}

Fisher = Mapping[str, Tensor]


def singles(batch: Batch) -> list[Batch]:
    """A batch as batches of one."""
    inputs, targets = batch
    return [(inputs[n : n + 1], targets[n : n + 1]) for n in range(len(inputs))]


def cast(batch: Batch, dtype: torch.dtype) -> Batch:
    """A batch with its real numbers in another dtype."""
    inputs, targets = batch
    return (inputs.to(dtype) if inputs.is_floating_point() else inputs), targets


def oracle(row: Row, model: nn.Module, batch: Batch, labels: str = "empirical", double: bool = True) -> Fisher:
    """One backward an example (exact labels: and class), on the CPU; ``double=False``: the same in float32."""
    dtype = torch.float64 if double else torch.float32
    model = copy.deepcopy(model).to("cpu", dtype)
    examples = singles(cast(tuple(value.cpu() for value in batch), dtype))
    meaning = oracles.Meaning("causal" if row.causal else "categorical")
    return oracles.fisher(model, examples, meaning=meaning, labels=labels)


def references(row: Row, model: nn.Module, batch: Batch) -> tuple[Fisher, float]:
    """The float64 oracle, and the worst error of the float32 loop."""
    truth = oracle(row, model, batch)
    return truth, relative(oracle(row, model, batch, double=False), truth)["worst"]


def relative(found: Fisher, truth: Fisher) -> dict[str, float | str]:
    """‖F − F₆₄‖ ÷ ‖F₆₄‖ of the whole and of the worst tensor; a tensor that is missing counts as zeros."""
    whole = float(torch.stack([value.norm() for value in truth.values()]).norm())
    distances = {name: float((found[name].detach().cpu().double() - value).norm() if name in found else value.norm())
                 for name, value in truth.items()}
    norms = {name: float(value.norm()) for name, value in truth.items()}
    errors = {name: distance / (norms[name] if norms[name] > NEGLIGIBLE * whole else whole)
              for name, distance in distances.items()}
    worst = max(errors, key=lambda name: (errors[name] != errors[name], errors[name]))
    total = float(torch.tensor(list(distances.values()), dtype=torch.float64).norm()) / whole
    return {"whole": total, "worst": errors[worst], "tensor": worst}


def allowed(row: Row, loop: float) -> float:
    """The worst tensor's relative error that still counts as right, from the float32 loop's."""
    return max(FLOORS[row.dtype], LOOPS * loop)
