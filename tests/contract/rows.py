"""Every regularizer of the package, found by walking it, and the one table of what a row is exempt from."""

import importlib
import inspect
import pkgutil
from typing import get_origin

import pytest
import torch
from torch import nn

import forgetting
from forgetting.regularizers import EWC, KL, L2SP, SI, Regularizer
from forgetting.regularizers.path import PathRegularizer
from forgetting.rehearsal import DER, Memory, ProxyReplay, Replay

STRENGTH = 3.0

# Settings that change what a class promises get a row of their own: name -> a maker from strength.
VARIANTS = {
    "EWC separate": lambda strength: EWC(strength, anchors="separate"),
    "EWC decayed": lambda strength: EWC(strength, decay=0.5),
    "EWC sampled": lambda strength: EWC(strength, labels="sampled"),
    "EWC empirical": lambda strength: EWC(strength, labels="empirical"),
    "EWC kronecker": lambda strength: EWC(strength, curvature="kronecker"),
    "EWC batched": lambda strength: EWC(strength, labels="batched"),
    "EWC reversed": lambda strength: EWC(strength, labels="reversed"),
    "EWC in bfloat16": lambda strength: EWC(strength, storage="bfloat16"),
    "EWC in int8": lambda strength: EWC(strength, storage="int8", offload=True),
    "SI separate": lambda strength: SI(strength, anchors="separate"),
    "L2SP in int8": lambda strength: L2SP(strength, storage="int8"),
    "L2SP with groups": lambda strength: L2SP(strength, groups={"0.*": 0.25}),
    "L2SP with a head": lambda strength: L2SP(strength, head=0.5, parameters="[02].*"),
    "KL reverse": lambda strength: KL(strength, direction="reverse"),
    "DER++": lambda strength: DER(strength, labels=1.0, **everything()),
}

# What looks at the model's outputs or features.
LOOKING = ("LwF", "KL", "KL reverse", "FeatureL2", "DELTA", "BatchSpectralShrinkage", "Replay", "DER", "DER++",
           "ProxyReplay")

# Classes that are no rows -> why; they have tests of their own for what the contract holds.
OUTSIDE = {
    "AGEM": "it has no loss term: it changes gradients at the step, and its penalty is always 0",
    "ProductEWC": "it pulls at adapters, which a model without them does not have",
}

# (row, property) -> why the property cannot hold.
EXEMPT = {
    ("EWC separate", "anchored"): "a sum of penalties around separate anchors is not 0 at the latest one",
    ("SI separate", "anchored"): "a sum of penalties around separate anchors is not 0 at the latest one",
    ("EWC batched", "batches"): "the square of a batch-mean gradient depends on it; it is there to reproduce others",
    ("EWC sampled", "order"): "one draw an example, taken in order: another order draws other labels",
    ("EWC in bfloat16", "quadratic"): "differences count from the edge of the cell that an anchor was rounded to",
    ("EWC in int8", "quadratic"): "differences count from the edge of the cell that an anchor was rounded to",
    ("L2SP in int8", "quadratic"): "differences count from the edge of the cell that an anchor was rounded to",
    ("L2SP with a head", "anchored"): "a head without an anchor is pulled to zero",
    **dict.fromkeys(((row, "autocast") for row in LOOKING), "it runs the model, and the model runs in autocast"),
    ("BatchSpectralShrinkage", "accumulation"): "the singular values of a batch are not those of its parts",
}


def everything():
    """Rehearsal of every example in every step, so that no draw decides a figure."""
    return {"memory": Memory(share=1.0), "batch": 999}


MAKERS = {kind: lambda strength, kind=kind: kind(strength, **everything()) for kind in (Replay, DER, ProxyReplay)}


def found_classes():
    """Every concrete regularizer that some module of the package defines."""
    classes = set()
    for module in pkgutil.walk_packages(forgetting.__path__, "forgetting."):
        if module.name.endswith("__main__") or ".kernels" in module.name:
            continue
        for _, value in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
            alias = get_origin(value) is not None  # to Python 3.10 an alias such as dict[str, Tensor] is a class
            if not alias and issubclass(value, Regularizer) and not inspect.isabstract(value):
                classes.add(value)
    return sorted(classes, key=lambda found: found.__name__)


ROWS = {found.__name__: MAKERS.get(found, found) for found in found_classes() if found.__name__ not in OUTSIDE}
ROWS |= VARIANTS


def holding(promise, *, needs=None):
    """Parametrize a test over the rows for which a property holds; ``needs``: only where the class declares it."""
    names = [
        name for name, make in ROWS.items()
        if (name, promise) not in EXEMPT and (needs is None or needs in make(1.0).properties)
    ]
    return pytest.mark.parametrize("row", names)


def make(row, strength=STRENGTH):
    """The row's regularizer."""
    return ROWS[row](strength)


def network(dtype=torch.float64):
    """A small classifier: a norm and a dropout in eval mode, a frozen bias, and a weight that no loss reaches."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Linear(6, 4), nn.Dropout(0.5), nn.Linear(4, 3))
    model[1].running_mean.uniform_(-1, 1, generator=torch.Generator().manual_seed(1))
    model[1].eval()
    model[3].eval()
    model[0].bias.requires_grad_(False)
    model[2].unused = nn.Parameter(torch.ones(2))
    return model.to(dtype)


def examples(count=21, seed=2, dtype=torch.float64):
    """Inputs and class labels."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 5, generator=generator, dtype=dtype), torch.randint(3, (count,), generator=generator)


def batches(size=7, seed=2, order=None, dtype=torch.float64):
    """The examples in batches of one size."""
    inputs, targets = examples(seed=seed, dtype=dtype)
    if order is not None:
        inputs, targets = inputs[order], targets[order]
    return list(zip(inputs.split(size), targets.split(size), strict=True))


def wander(model, seed=3, distance=0.1):
    """Move every trainable weight, by the same seed to the same place."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                step = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
                parameter.add_(distance * step.to(parameter.dtype))


def learned(row, model, *, strength=STRENGTH, tasks=2, dtype=torch.float64):
    """The row's regularizer after it consolidated some tasks, between which the model moved."""
    regularizer = make(row, strength)
    for task in range(tasks):
        wander(model, seed=10 + task)
        consolidate(regularizer, model, batches(seed=20 + task, dtype=dtype))
    return regularizer


def consolidate(regularizer, model, data):
    """Let it absorb the task, which a method that listens to training learns first."""
    walk(regularizer, model)
    regularizer.consolidate(model, data)


def walk(regularizer, model, steps=3):
    """The training that a path integral listens to; nothing for other methods."""
    if not isinstance(regularizer, PathRegularizer):
        return
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with regularizer.attach(model, optimizer), torch.random.fork_rng():
        torch.manual_seed(0)
        for step in range(steps):
            inputs, targets = examples(seed=40 + step, dtype=next(model.parameters()).dtype)
            nn.functional.cross_entropy(model(inputs), targets).backward()
            optimizer.step()
            optimizer.zero_grad()


def penalty(regularizer, model):
    """Its penalty, on inputs that are always the same; methods of weights do not look at them."""
    weight = next(model.parameters())
    return regularizer.penalty(model, examples(6, seed=30)[0].to(weight.device, weight.dtype))
