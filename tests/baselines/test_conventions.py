"""The importances of other code, each against its formula written out an example at a time."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from baselines.conventions import ArgmaxEWC, BatchMAS, CappedSI, LabelShareEWC

COLUMNS = (1, 3, 4)


@pytest.fixture
def case():
    """A model of five logits in float64, and two batches of a task that uses three of them."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5)).double()
        inputs = 2 * torch.randn(7, 4, dtype=torch.float64)
    targets = torch.tensor([1, 3, 4, 4, 1, 3, 3])
    return model, [(inputs[:4], targets[:4]), (inputs[4:], targets[4:])]


def examples(data):
    return [(inputs[number : number + 1], targets[number]) for inputs, targets in data for number in range(len(inputs))]


def gradient(model, value):
    return {name: found for (name, _), found in zip(
        model.named_parameters(), torch.autograd.grad(value, list(model.parameters())), strict=True)}


def mean(found):
    return {name: torch.stack([each[name] for each in found]).mean(0) for name in found[0]}


def same(curvature, expected):
    assert set(curvature) == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(curvature[name].double(), value, rtol=1e-6, atol=1e-12)


def test_argmax_ewc_squares_the_score_of_the_models_own_label(case):
    model, data = case
    found = []
    for inputs, _ in examples(data):
        scores = functional.log_softmax(model(inputs)[0, list(COLUMNS)], dim=0)
        found.append({name: g.square() for name, g in gradient(model, scores[scores.argmax()]).items()})
    same(ArgmaxEWC(1.0).estimate(model, data, COLUMNS), mean(found))


def test_label_share_ewc_weighs_the_squared_score_by_the_labels_probability(case):
    model, data = case
    found = []
    for inputs, target in examples(data):
        score = functional.log_softmax(model(inputs)[0, list(COLUMNS)], dim=0)[COLUMNS.index(int(target))]
        share = score.exp().detach()
        found.append({name: share * g.square() for name, g in gradient(model, score).items()})
    same(LabelShareEWC(1.0).estimate(model, data, COLUMNS), mean(found))


def test_batch_mas_takes_the_absolute_gradient_of_a_batch(case):
    model, data = case
    found = []
    for inputs, _ in data:
        own = torch.stack([model(inputs)[:, column].square() for column in COLUMNS]).mean()
        found.append({name: g.abs() for name, g in gradient(model, own).items()})
    same(BatchMAS(1.0).estimate(model, data, COLUMNS), mean(found))


def test_capped_importances_never_pass_their_cap_however_the_sum_is_rounded():
    generator = torch.Generator().manual_seed(0)
    model = nn.Linear(200, 100)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator))
    known = CappedSI(1.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    with known.attach(model, optimizer):
        for _ in range(6):
            inputs, targets = torch.randn(8, 200, generator=generator), torch.randn(8, 100, generator=generator)
            for _ in range(3):
                optimizer.zero_grad()
                nn.functional.mse_loss(model(inputs), targets).backward()
                optimizer.step()
            known.consolidate(model, [(inputs, targets)])
    largest = max(float(value.max()) for value in known.consolidated.curvature.diagonal().values())
    assert largest == pytest.approx(1e-3, rel=1e-6)
