"""Labels of EWC-DR: the data's own, scored by outputs with the other sign, so that being sure does not hide weights."""

import pytest
import torch
from torch import nn

from forgetting import fisher
from forgetting.regularizers import EWC


def network(factor=1.0):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    with torch.no_grad():
        for weight in model[2].parameters():
            weight.mul_(factor)
    return model


def examples(count=7):
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(count, 3, generator=generator, dtype=torch.float64)
    return inputs, torch.randint(3, (count,), generator=generator)


def by_loop(model, inputs, targets, columns=None):
    """Mean over examples of squared gradients of the cross entropy at −z, one backward an example."""
    total = {name: torch.zeros_like(weight) for name, weight in model.named_parameters()}
    for one, label in zip(inputs, targets, strict=True):
        logits = -model(one)
        if columns is not None:
            logits, label = logits[columns], torch.tensor(columns.index(int(label)))
        loss = nn.functional.cross_entropy(logits, label)
        for (name, _), gradient in zip(model.named_parameters(), torch.autograd.grad(loss, list(model.parameters())),
                                       strict=True):
            total[name] += gradient**2 / len(inputs)
    return total


@pytest.mark.parametrize("size", [1, 3, 7])
def test_it_is_the_squared_gradient_of_the_reversed_cross_entropy(size):
    model, (inputs, targets) = network(), examples()
    found = fisher.diagonal(model, list(zip(inputs.split(size), targets.split(size), strict=True)), labels="reversed")
    for name, value in by_loop(model, inputs, targets).items():
        torch.testing.assert_close(found[name], value, rtol=1e-10, atol=1e-14)
    assert found.labels == "reversed"


def test_only_the_columns_of_the_task_count():
    model, (inputs, targets) = network(), examples()
    targets = targets.clamp(min=1)
    found = fisher.diagonal(model, [(inputs, targets)], labels="reversed", outputs=[1, 2])
    for name, value in by_loop(model, inputs, targets, [1, 2]).items():
        torch.testing.assert_close(found[name], value, rtol=1e-10, atol=1e-14)


def test_positions_of_a_sequence_add_up():
    inputs = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    targets = torch.tensor([[0, 1, 2, -100]] * 2)
    model = nn.Linear(3, 3, bias=False).double()
    found = fisher.diagonal(model, [(inputs, targets)], labels="reversed", likelihood=fisher.Categorical())
    expected = torch.zeros_like(model.weight)
    for one, labels in zip(inputs, targets, strict=True):
        loss = nn.functional.cross_entropy(-model(one), labels, reduction="sum")
        expected += torch.autograd.grad(loss, model.weight)[0] ** 2 / 2
    torch.testing.assert_close(found["weight"], expected, rtol=1e-10, atol=0)


def test_a_sure_model_is_held_where_the_fisher_vanishes():
    model, (inputs, _) = network(factor=200.0), examples()
    data = [(inputs, model(inputs).argmax(1))]
    kinds = ("empirical", "exact", "reversed")
    traces = {labels: fisher.diagonal(model, data, labels=labels).trace() for labels in kinds}
    assert traces["empirical"] < 1e-3 * traces["reversed"]
    assert traces["exact"] < 1e-3 * traces["reversed"]
    ewc = EWC(1.0, labels="reversed")
    ewc.consolidate(model, data)
    assert ewc.consolidated.curvature.trace() == pytest.approx(traces["reversed"], rel=1e-12)


def test_factors_take_them_too():
    model, (inputs, targets) = network(), examples(1)
    found = fisher.kronecker(model, [(inputs, targets)], labels="reversed")
    for name, value in by_loop(model, inputs, targets).items():
        torch.testing.assert_close(found.diagonal()[name], value, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("likelihood", [fisher.Bernoulli(), fisher.Gaussian()])
def test_other_outputs_have_no_scores_of_classes(likelihood):
    data = [(examples()[0], torch.ones(7, 3).double())]
    with pytest.raises(ValueError, match="turns the sign of the scores of classes"):
        fisher.diagonal(network(), data, labels="reversed", likelihood=likelihood)
