"""EWC with Kronecker factors: the true quadratic where it is one, the settings it takes, the tasks it adds up."""

import copy
import io
import warnings

import pytest
import torch
from torch import nn

from forgetting import fisher
from forgetting.curvature import Kronecker
from forgetting.parameters import named, snapshot
from forgetting.regularizers import EWC
from tests.regularizers.small import move

GAUSSIAN = {"curvature": "kronecker", "likelihood": fisher.Gaussian()}


def normal(*shape, seed):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def regression():
    return nn.Linear(3, 2).double()


def task(seed, examples=40):
    """Inputs that go together, so that a diagonal says little, and outputs of a map of their own."""
    inputs = normal(examples, 3, seed=seed) @ normal(3, 3, seed=seed + 100)
    return inputs, inputs @ normal(3, 2, seed=seed + 200) + 0.1 * normal(examples, 2, seed=seed + 300)


def loss(model, data):
    """½ mean squared distance: −log p of a Gaussian of variance 1, up to a constant."""
    return (model(data[0]) - data[1]).square().sum(1).mean() / 2


def solve(model, data, penalty=lambda model: 0.0):
    """Train to the optimum."""
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=200, tolerance_grad=1e-12, tolerance_change=1e-16,
                                  line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        total = loss(model, data) + penalty(model)
        total.backward()
        return total

    optimizer.step(closure)
    return model


def test_the_penalty_is_what_the_source_loss_rises_by():
    """Linear regression at its optimum: ½δᵀFδ with the whole Fisher matrix, and not what a diagonal says."""
    model, source = regression(), task(1)
    inputs = torch.cat([source[0], torch.ones(40, 1, dtype=torch.float64)], 1)
    best = torch.linalg.lstsq(inputs, source[1]).solution.T
    model.weight.data, model.bias.data = best[:, :3].clone(), best[:, 3].clone()
    diagonal, ewc = EWC(1.0, likelihood=fisher.Gaussian()), EWC(1.0, **GAUSSIAN)
    diagonal.consolidate(model, [source])
    ewc.consolidate(model, [source])
    before = loss(model, source).item()
    move(model, 5)
    assert ewc.penalty(model).item() == pytest.approx(loss(model, source).item() - before, rel=1e-9)
    assert diagonal.penalty(model).item() != pytest.approx(ewc.penalty(model).item(), rel=0.02)


def test_fine_tuning_with_it_is_learning_both_tasks_at_once():
    """With one source example a target example, λ = 1, the optimum is that of both together; no diagonal's."""
    source, target = task(1), task(2)
    both = tuple(torch.cat(pair) for pair in zip(source, target, strict=True))
    together, start = solve(regression(), both), solve(regression(), source)
    losses = {}
    for kind in ("kronecker", "diagonal"):
        ewc = EWC(1.0, curvature=kind, likelihood=fisher.Gaussian())
        ewc.consolidate(start, [source])
        learned = solve(copy.deepcopy(start), target, ewc.penalty)
        losses[kind] = loss(learned, source).item()
        gaps = [float((one - other).detach().norm()) for one, other in
                zip(learned.parameters(), together.parameters(), strict=True)]
        assert (max(gaps) < 1e-5) == (kind == "kronecker"), (kind, gaps)
    forgotten = loss(solve(copy.deepcopy(start), target), source).item()
    assert losses["kronecker"] < losses["diagonal"] < forgotten


def test_a_third_task_is_held_too_and_the_error_of_the_sum_is_told():
    tasks = [task(seed) for seed in (1, 2, 3)]
    model, ewc = regression(), EWC(1.0, **GAUSSIAN)
    for data in tasks:
        solve(model, data, ewc.penalty)
        ewc.consolidate(model, [data])
    matrix = ewc.consolidated.curvature
    assert isinstance(matrix, Kronecker)
    assert ewc.consolidated.tasks == 3
    assert 0 <= matrix.errors.get("weight", 0.0) < 1e-9, "all G are the identity: the sum is a Kronecker product"
    together = solve(regression(), tuple(torch.cat(pair) for pair in zip(*tasks, strict=True)))
    for one, other in zip(model.parameters(), together.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_without_decay_only_the_newest_matrix_counts():
    model, ewc = regression(), EWC(1.0, decay=0.0, **GAUSSIAN)
    for seed in (1, 2):
        ewc.consolidate(model, [task(seed)])
    alone = fisher.kronecker(model, [task(2)], likelihood=fisher.Gaussian())
    delta = {name: torch.ones_like(value) for name, value in named(model).items()}
    found = ewc.consolidated.curvature
    assert float(found.quadratic(delta)) == pytest.approx(float(alone.quadratic(delta)), rel=1e-12)


def classifier():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.LayerNorm(6), nn.Linear(6, 4)).double()


def batches(size=5):
    return list(zip(normal(20, 4, seed=1).split(size), (torch.arange(20) % 4).split(size), strict=True))


@pytest.mark.parametrize("settings", [
    {}, {"labels": "empirical"}, {"labels": "sampled"}, {"examples": 7}, {"parameters": "3.*"},
    {"likelihood": fisher.Categorical()},
], ids=lambda settings: "-".join(settings) or "default")
def test_every_setting_reaches_the_factors(settings):
    model, ewc = classifier(), EWC(1.0, curvature="kronecker", **settings)
    ewc.consolidate(model, batches())
    expected, found = fisher.kronecker(model, batches(), **settings), ewc.consolidated.curvature
    assert found.names() == expected.names()
    delta = {name: torch.ones_like(value) for name, value in named(model).items()}
    for name, value in expected.product(delta).items():
        torch.testing.assert_close(found.product(delta)[name], value)


@pytest.mark.parametrize("mode", ["loss", "gradient", "proximal"])
def test_every_mode_pulls_back(mode):
    model, ewc = classifier(), EWC(50.0, curvature="kronecker")
    ewc.consolidate(model, batches())
    anchor = snapshot(named(model))
    move(model, 3, distance=0.3)
    optimizer, values = torch.optim.SGD(model.parameters(), lr=0.02), []
    with ewc.attach(model, optimizer, mode=mode):
        for _ in range(30):
            optimizer.zero_grad()
            value = ewc.penalty(model)
            values.append(value.item())
            (value if mode == "loss" else 0 * value).backward()
            optimizer.step()
    assert values[-1] < 0.5 * values[0]
    assert values == sorted(values, reverse=True)
    assert any(not torch.equal(value, anchor[name]) for name, value in named(model).items())


def test_a_given_matrix_serves_and_may_be_ekfac():
    model = classifier()
    ewc = EWC(2.0)
    matrix = fisher.kronecker(model, batches(), approximation="ekfac")
    ewc.consolidate(model, curvature=matrix)
    anchor = snapshot(named(model))
    move(model, 3)
    delta = {name: value.detach() - anchor[name] for name, value in named(model).items()}
    assert ewc.penalty(model).item() == pytest.approx(float(matrix.quadratic(delta)), rel=1e-12)


def test_a_state_may_be_cut_to_some_parameters():
    """The way out when a head was replaced, here also of a bias whose weight stays."""
    model, ewc = classifier(), EWC(1.0, curvature="kronecker")
    ewc.consolidate(model, batches())
    file = io.BytesIO()
    torch.save(ewc.state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    move(model, 3)
    for names in (("0.*", "2.*"), ("0.weight", "2.*", "3.bias")):
        part = EWC(1.0, curvature="kronecker", parameters=names)
        part.load_state_dict(state)
        matrix = ewc.consolidated.curvature.restricted(part.consolidated.curvature.names())
        delta = {name: value.detach() - ewc.consolidated.anchor[name] for name, value in named(model).items()}
        assert part.penalty(model).item() == pytest.approx(float(matrix.quadratic(delta)) / 2, rel=1e-12)


@pytest.mark.parametrize(("settings", "words"), [
    ({"curvature": "kfac"}, r"curvature='kfac' does not exist: choose one of diagonal, kronecker"),
    ({"curvature": "kronecker", "anchors": "separate"}, 'curvature="kronecker" needs anchors="latest"'),
    ({"curvature": "kronecker", "labels": "batched"}, 'curvature="kronecker" needs labels="exact", "signed"'),
])
def test_what_it_does_not_take(settings, words):
    with pytest.raises(ValueError, match=words):
        EWC(1.0, **settings)
    separate = EWC(1.0, anchors="separate")
    with pytest.raises(TypeError, match=r"a Kronecker needs anchors='latest'"):
        separate.consolidate(classifier(), curvature=fisher.kronecker(classifier(), batches()))


def test_a_certain_model_makes_it_inert_and_it_says_so():
    model = classifier()
    with torch.no_grad():
        model[3].bias.copy_(torch.tensor([1e3, 0, 0, 0]))
    with pytest.warns(UserWarning, match="EWC is inert: its largest importance is"):
        EWC(1.0, curvature="kronecker").consolidate(model, batches())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        EWC(1.0, curvature="kronecker").consolidate(classifier(), batches())
