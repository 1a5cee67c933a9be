"""The library and the oracle on one row, and how far apart they may be."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from fnmatch import fnmatchcase
from functools import cache

import pytest
import torch
from torch import Tensor

from forgetting import fisher
from tests import oracles
from tests.cases import CASES, Case, cut, length

SIZES = (1, 7, None)
FLOAT64 = 1e-10
FLOAT32 = 1e-5
FLOAT32_LOOPS = 2.0
NEGLIGIBLE = 1e-12
"""The one table of tolerances: relative error a tensor; in float32 the larger of the floor and this many times the
error of a single-example loop; a tensor whose Fisher is this small a share of the whole is held against the whole."""

LIKELIHOODS = {
    "categorical": lambda meaning: None,
    "positions": lambda meaning: fisher.Categorical(ignore_index=meaning.ignore_index),
    "causal": lambda meaning: fisher.CausalLanguageModel(ignore_index=meaning.ignore_index),
    "bernoulli": lambda meaning: fisher.Bernoulli(),
    "gaussian": lambda meaning: fisher.Gaussian(meaning.variance),
}


def require(case: Case) -> None:
    """Skip, with the reason, where the row's package is not installed."""
    if case.needs is not None and importlib.util.find_spec(case.needs) is None:
        pytest.skip(f"{case.name} is a model of the package {case.needs}, which is not installed")


def estimate(case: Case, labels: str, size: int | None, dtype: torch.dtype, **options: object) -> fisher.Diagonal:
    """The library's estimate on a freshly built row."""
    model, batch = case.build(dtype)
    given = {"likelihood": LIKELIHOODS[case.meaning.kind](case.meaning), "outputs": case.meaning.outputs,
             "forward": case.forward, "parameters": case.parameters, "labels": labels}
    return fisher.diagonal(model, cut(batch, size), **{**given, **options})


def uniforms(case: Case, examples: int, cells: int) -> Tensor:
    """What the library draws by default: seed 0, example after example, a float64 a cell."""
    return torch.rand(examples, cells, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def cells_of(case: Case, model: torch.nn.Module, batch: object) -> int:
    """How many independent labels an example has, ignored positions among them."""
    with torch.no_grad():
        outputs, _ = oracles.call(oracles.prepared(model)[0], cut(batch, 1)[0], case.forward)
    one = outputs[0] if case.meaning.outputs is None else outputs[0][..., list(case.meaning.outputs)]
    if case.meaning.kind in ("bernoulli", "gaussian"):
        return one.numel()
    return one.shape[:-1].numel() - (case.meaning.kind == "causal")


@cache
def reference(name: str, labels: str, dtype: torch.dtype, batch_size: int | None = None) -> dict[str, Tensor]:
    """The oracle's value on a row, in the gradients' ``dtype``."""
    case = CASES[name]
    model, batch = case.build(dtype)
    if labels == "batched":
        found = oracles.batched(model, cut(batch, batch_size), meaning=case.meaning, forward=case.forward)
    else:
        drawn = uniforms(case, length(batch), cells_of(case, model, batch)) if labels == "sampled" else None
        found = oracles.fisher(
            model, cut(batch, 1), meaning=case.meaning, labels=labels, forward=case.forward, uniforms=drawn)
    patterns = (case.parameters,) if isinstance(case.parameters, str) else case.parameters or ("*",)
    return {key: value for key, value in found.items() if any(fnmatchcase(key, pattern) for pattern in patterns)}


def errors(found: Mapping[str, Tensor], truth: Mapping[str, Tensor]) -> dict[str, float]:
    """Relative error a tensor; a negligible one against the norm of the whole."""
    assert list(found) == list(truth), "another set of parameters, or another order"
    whole = float(torch.stack([value.norm() for value in truth.values()]).norm())
    assert whole > 0, "the reference is zero everywhere: the comparison would say nothing"
    norms = {name: float(value.norm()) for name, value in truth.items()}
    scales = {name: norm if norm > NEGLIGIBLE * whole else whole for name, norm in norms.items()}
    return {name: float((found[name].double() - value).norm()) / scales[name] for name, value in truth.items()}


def assert_close(found: Mapping[str, Tensor], truth: Mapping[str, Tensor], tolerance: float = FLOAT64) -> None:
    """Every tensor within ``tolerance``; the message says which are not."""
    wrong = {name: error for name, error in errors(found, truth).items() if not error <= tolerance}
    assert not wrong, f"relative errors above {tolerance:g}: {wrong}"
