"""RWalk: the written-out algorithm, step by step, and what is left of it with a term switched off."""

import pytest
import torch
from torch import nn

from forgetting.fisher import Categorical
from forgetting.regularizers import EWC, SI, RWalk
from tests import oracles
from tests.regularizers.small import Weights
from tests.regularizers.walking import batch, close, network, task_gradients, task_loss, walk, weights


def over_largest(values):
    """Every entry over the largest of all."""
    largest = max(value.max() for value in values.values())
    return {name: value / largest for name, value in values.items()}


def scores(steps, interval, damping):
    """max(0, Σ ω / (½FΔ² + ε)) from the steps' (weights before, task gradient, weights after)."""
    total = {name: torch.zeros_like(value) for name, value in steps[0][0].items()}
    for first in range(0, len(steps), interval):
        part = steps[first : first + interval]
        for name in total:
            omega = sum(-gradient[name] * (after[name] - before[name]) for before, gradient, after in part)
            metric = sum(gradient[name] ** 2 for _, gradient, _ in part) / len(part)
            distance = 0.5 * metric * (part[-1][2][name] - part[0][0][name]) ** 2
            total[name] += omega / (distance + damping)
    return {name: value.clamp(min=0) for name, value in total.items()}


def recorded(model, rwalk, optimizer, count, mode="gradient"):
    """Train, and what each step was."""
    steps = []
    for step in range(count):
        before, gradient = weights(model), task_gradients(model, step)
        walk(model, rwalk, optimizer, mode=mode, first=step, steps=1)
        steps.append((before, gradient, weights(model)))
    return steps


def fisher(model, data):
    """The empirical Fisher, one backward an example."""
    inputs, targets = data
    return oracles.fisher(model, [(inputs[n : n + 1], targets[n : n + 1]) for n in range(len(inputs))],
                          meaning=oracles.Meaning(), labels="empirical")


@pytest.mark.parametrize("interval", [1, 3, 5])
@pytest.mark.parametrize("damping", [1e-3, 1e-7])
@pytest.mark.parametrize("mode", ["loss", "gradient"])
def test_the_importance_is_the_written_out_one(interval, damping, mode):
    model, rwalk = network(), RWalk(2.0, interval=interval, damping=damping)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.5)
    expected = {name: torch.zeros_like(value) for name, value in weights(model).items()}
    for _ in range(2):
        steps = recorded(model, rwalk, optimizer, 7, mode)
        importance = over_largest(scores(steps, interval, damping))
        for name, value in over_largest(fisher(model, batch(3))).items():
            expected[name] = 0.5 * expected[name] + importance[name] + value
        rwalk.consolidate(model, [batch(3)])
        close(dict(rwalk.consolidated.curvature), expected, rtol=1e-8)
        assert torch.equal(rwalk.consolidated.anchor["0.weight"], model[0].weight)


def test_without_a_path_it_is_ewc():
    model = network()
    rwalk, ewc = RWalk(2.0, decay=0.5), EWC(2.0, labels="empirical", decay=0.5)
    largest = []
    for task in range(2):
        with pytest.warns(UserWarning, match="listened to no step.*Fisher information alone"):
            rwalk.consolidate(model, [batch(task)])
        once = EWC(1.0, labels="empirical")
        once.consolidate(model, [batch(task)])
        largest.append(once.consolidated.curvature.largest())
        ewc.consolidate(model, curvature=once.consolidated.curvature.scaled(1 / largest[-1]))
        with torch.no_grad():
            model[0].weight += 0.1
    assert rwalk.penalty(model).item() == pytest.approx(ewc.penalty(model).item(), rel=1e-12)
    assert rwalk.penalty(model).item() > 0


def test_in_a_flat_metric_and_without_a_fisher_it_is_si():
    # A loss of constant slope √2 makes ½F = 1; labels that do not count make the Fisher at the end 0.
    model = Weights(a=torch.linspace(-1, 1, 5).double(), b=torch.ones(3).double())
    slopes = {"a": 2**0.5 * torch.tensor([1.0, -1, 1, 1, -1]).double(), "b": 2**0.5 * torch.ones(3).double()}
    rwalk = RWalk(1.0, interval=100, damping=0.02, likelihood=Categorical(), forward=unread)
    si = SI(1.0, damping=0.02)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1, betas=(0.5, 0.5))
    with rwalk.attach(model, optimizer), si.attach(model, optimizer):
        for factor in (0.3, 1.0, 0.1, 2.0, 1.0, 0.7):
            for group in optimizer.param_groups:
                group["lr"] = 0.1 * factor
            for name, weight in model.named_parameters():
                weight.grad = slopes[name].clone()
            optimizer.step()
    si.consolidate(model)
    rwalk.consolidate(model, [(torch.ones(2, 1).double(), torch.tensor([-100, -100]))])
    largest = si.consolidated.curvature.largest()
    assert largest > 1
    close(dict(rwalk.consolidated.curvature), dict(si.consolidated.curvature.scaled(1 / largest)), rtol=1e-7)


def unread(model, data):
    """Outputs that hang together with the weights."""
    inputs, targets = data
    return inputs * (model.a.sum() + model.b.sum()) * torch.ones(1, 2).double(), targets


def test_f5_it_trains_in_the_modes_that_it_finds():
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.BatchNorm1d(6), nn.Linear(6, 3))
    model.double().train()
    model[3].eval()
    rwalk, optimizer = RWalk(1.0), torch.optim.SGD(model.parameters(), lr=0.1)
    with torch.random.fork_rng(), rwalk.attach(model, optimizer):
        torch.manual_seed(0)
        for step in range(3):
            optimizer.zero_grad()
            (task_loss(model, step) + rwalk.penalty(model)).backward()
            optimizer.step()
            assert [module.training for module in model] == [True, True, True, False, True]
    assert int(model[1].num_batches_tracked) == 3
    assert int(model[3].num_batches_tracked) == 0
    rwalk.consolidate(model, [batch(0)])
    assert [module.training for module in model] == [True, True, True, False, True]
    assert int(model[1].num_batches_tracked) == 3


def test_f15_one_formula_for_penalty_and_pull():
    model, rwalk = network(), RWalk(5.0)
    walk(model, rwalk, torch.optim.SGD(model.parameters(), lr=0.1))
    rwalk.consolidate(model, [batch(0)])
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1)
    rwalk.penalty(model).backward()
    close({name: weight.grad for name, weight in model.named_parameters()}, rwalk.pull(model))


def test_both_terms_lie_between_0_and_1():
    model, rwalk = network(), RWalk(5.0)
    walk(model, rwalk, torch.optim.SGD(model.parameters(), lr=0.1))
    rwalk.consolidate(model, [batch(0)])
    values = torch.cat([value.flatten() for value in rwalk.consolidated.curvature.values()])
    assert 1 <= values.max() <= 2
    assert values.min() >= 0


@pytest.mark.parametrize(("settings", "words"), [
    ({"interval": 0}, "interval=0 is a number of steps"), ({"interval": 2.5}, "interval=2.5"),
    ({"damping": 0.0}, "damping"),
])
def test_settings_out_of_their_range(settings, words):
    with pytest.raises(ValueError, match=words):
        RWalk(1.0, **settings)


def test_data_is_needed():
    model, rwalk = network(), RWalk(1.0)
    walk(model, rwalk, torch.optim.SGD(model.parameters(), lr=0.1))
    with pytest.raises(ValueError, match="needs data="):
        rwalk.consolidate(model)
