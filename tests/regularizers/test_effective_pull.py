"""Whatever stands between a loss and the weights, the same pull arrives, once a step: λA(θ−μ), or its proximal step."""

import contextlib

import pytest
import torch
from torch import nn

from forgetting.regularizers import EWC, L2SP
from tests.regularizers.small import importances

RATE, MOMENTUM, STRENGTH = 0.01, 0.9, 2.0
METHODS = {"EWC": EWC, "EWC over its mean": lambda strength: EWC(strength, normalize="mean"), "L2SP": L2SP}
KINDS = {"SGD": lambda parameters, fused: torch.optim.SGD(parameters, lr=RATE, momentum=MOMENTUM, fused=fused),
         "Adam": lambda parameters, fused: torch.optim.Adam(parameters, lr=RATE, betas=(MOMENTUM, 0.999), fused=fused)}

methods = pytest.mark.parametrize("method", METHODS)
kinds = pytest.mark.parametrize("kind", KINDS)
surroundings = [pytest.mark.parametrize("accumulate", [1, 4, 8]), pytest.mark.parametrize("scaled", [False, True]),
                pytest.mark.parametrize("fused", [False, True])]


def network():
    """A small classifier."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))


def start(method, strength):
    """A model that has left its anchor, the regularizer, and A and θ−μ by hand in float64."""
    model, regularizer = network(), METHODS[method](strength)
    matrix = {name: torch.ones_like(weight).double() for name, weight in model.named_parameters()}
    if method == "L2SP":
        regularizer.consolidate(model)
    else:
        # No importance dwarfs the task's gradient, in which a small pull would drown.
        given = importances(model, 1).scaled(1e-2)
        regularizer.consolidate(model, curvature=given)
        matrix = {name: value.double() for name, value in given.items()}
        if "mean" in method:
            mean = torch.cat([value.flatten() for value in matrix.values()]).mean()
            matrix = {name: value / mean for name, value in matrix.items()}
    anchor = {name: weight.detach().double().clone() for name, weight in model.named_parameters()}
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn(weight.shape, generator=generator))
    delta = {name: weight.detach().double() - anchor[name] for name, weight in model.named_parameters()}
    return model, regularizer, matrix, anchor, delta


def step(model, regularizer, mode, kind, *, accumulate=1, scaled=False, fused=False, compiled=None):
    """One step of fine-tuning; what the optimizer took for the gradient."""
    optimizer = KINDS[kind](model.parameters(), fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12, enabled=scaled)
    network = torch.compile(model, backend="aot_eager") if compiled == "model" else model

    def objective(inputs, targets):
        loss = nn.functional.cross_entropy(network(inputs), targets)
        return loss + regularizer.penalty(network, inputs) if mode == "loss" else loss

    if compiled == "loss":
        objective = torch.compile(objective, backend="aot_eager")
    generator = torch.Generator().manual_seed(2)
    inputs, targets = torch.randn(16, 6, generator=generator), torch.randint(3, (16,), generator=generator)
    with regularizer.attach(model, optimizer, mode=mode):
        for part, labels in zip(inputs.chunk(accumulate), targets.chunk(accumulate), strict=True):
            with torch.autocast("cpu", torch.bfloat16) if scaled else contextlib.nullcontext():
                loss = objective(part, labels)
            scaler.scale(loss / accumulate).backward()
        scaler.step(optimizer)
        scaler.update()
    key, share = ("momentum_buffer", 1.0) if kind == "SGD" else ("exp_avg", 1 - MOMENTUM)
    return {name: optimizer.state[weight][key].double() / share for name, weight in model.named_parameters()}


def arrived(method, mode, kind, **surroundings):
    """The gradient that the optimizer took with the penalty, less the one without; and λA(θ−μ)."""
    model, regularizer, matrix, _, delta = start(method, STRENGTH)
    taken = step(model, regularizer, mode, kind, **surroundings)
    model, regularizer, *_ = start(method, 0.0)
    alone = step(model, regularizer, mode, kind, **surroundings)
    return {name: taken[name] - alone[name] for name in taken}, {n: STRENGTH * matrix[n] * delta[n] for n in taken}


def agree(found, expected):
    """Equal, up to what float32 loses of a pull in a gradient."""
    assert max(value.abs().max() for value in expected.values()) > 0.01
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-6)


def together(test):
    """Every surrounding with every other."""
    for mark in (methods, kinds, *surroundings):
        test = mark(test)
    return test


@together
@pytest.mark.parametrize("mode", ["loss", "gradient"])
def test_the_same_gradient_arrives(method, mode, kind, accumulate, scaled, fused):
    agree(*arrived(method, mode, kind, accumulate=accumulate, scaled=scaled, fused=fused))


@together
def test_the_same_proximal_step_follows(method, kind, accumulate, scaled, fused):
    ends = []
    for strength in (STRENGTH, 0.0):
        model, regularizer, matrix, anchor, _ = start(method, strength)
        step(model, regularizer, "proximal", kind, accumulate=accumulate, scaled=scaled, fused=fused)
        ends.append({name: weight.detach().double() for name, weight in model.named_parameters()})
    factor = RATE * STRENGTH / (1 - MOMENTUM if kind == "SGD" else 1)
    held, free = ends
    for name, value in free.items():
        share = factor * matrix[name] / (1 + factor * matrix[name])
        torch.testing.assert_close(held[name], value - share * (value - anchor[name]), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("method", ["EWC", "L2SP"])
@kinds
@pytest.mark.parametrize(("mode", "compiled"), [("loss", "model"), ("loss", "loss"), ("gradient", "model"),
                                                ("gradient", "loss")])
@pytest.mark.parametrize("scaled", [False, True])
def test_a_compiler_changes_nothing(method, mode, kind, compiled, scaled):
    agree(*arrived(method, mode, kind, compiled=compiled, scaled=scaled, accumulate=2))
