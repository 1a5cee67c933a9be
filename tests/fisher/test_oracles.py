"""The references themselves: against closed forms, and against differences of the likelihood without autograd."""

import pytest
import torch
from torch import nn

from forgetting import fisher
from tests import oracles
from tests.cases import CASES, cut
from tests.fisher.estimates import assert_close
from tests.oracles import Meaning

FINITE_DIFFERENCES = 1e-6


def regression(outputs):
    torch.manual_seed(0)
    return nn.Linear(4, outputs).double(), torch.randn(9, 4, dtype=torch.float64)


def test_linear_regression_in_closed_form():
    model, inputs = regression(2)
    targets = torch.zeros(9, 2, dtype=torch.float64)
    closed = oracles.linear_regression(inputs, 2, variance=0.3)
    meaning = Meaning("gaussian", variance=0.3)
    assert_close(oracles.fisher(model, cut((inputs, targets), 1), meaning=meaning), closed)
    assert_close(fisher.diagonal(model, cut((inputs, targets), 4), likelihood=fisher.Gaussian(0.3)), closed)


def test_softmax_regression_in_closed_form():
    model, inputs = regression(3)
    batch = inputs, torch.zeros(9, dtype=torch.long)
    closed = oracles.softmax_regression(inputs, model.weight.detach(), model.bias.detach())
    assert_close(oracles.fisher(model, cut(batch, 1), meaning=Meaning()), closed)
    assert_close(fisher.diagonal(model, cut(batch, 4)), closed)


@pytest.mark.parametrize("labels", ["exact", "empirical"])
@pytest.mark.parametrize("name", ["mlp", "conv", "tied_weights", "bernoulli", "gaussian", "multi_head"])
def test_finite_differences_agree(name, labels):
    case = CASES[name]
    model, batch = case.build(torch.float64)
    examples = cut(batch, 1)[:3]
    truth = oracles.finite_differences(model, examples, meaning=case.meaning, labels=labels)
    assert_close(oracles.fisher(model, examples, meaning=case.meaning, labels=labels), truth, FINITE_DIFFERENCES)


def test_a_draw_follows_the_predictive():
    """Evenly spread uniforms choose each class as often as its probability says; the normal has its moments."""
    spread = (torch.arange(10000) + 0.5) / 10000
    output = torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64)
    drawn = torch.tensor([oracles.draw(Meaning(), output, float(u)) for u in spread])
    assert torch.allclose(drawn.bincount(minlength=3) / 10000, output.softmax(0).float(), atol=2e-4)
    yes = [oracles.draw(Meaning("bernoulli"), output[0], float(u)) for u in spread]
    assert sum(yes) / 10000 == pytest.approx(float(output[0].sigmoid()), abs=2e-4)
    normal = torch.stack([oracles.draw(Meaning("gaussian", variance=4.0), output[2], float(u)) for u in spread])
    assert (float(normal.mean()), float(normal.var())) == (pytest.approx(2.0, abs=1e-3), pytest.approx(4.0, abs=1e-2))
