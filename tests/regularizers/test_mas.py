"""MAS: held as hard as the outputs move, whatever the labels and the mode the model is in."""

import pytest
import torch
from torch import nn

from forgetting import fisher
from forgetting.regularizers import MAS


def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 4)).double()


def examples(seed=1):
    return torch.randn(6, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def moved(model, distance=0.1):
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(distance)


def test_the_penalty_is_the_papers_with_a_half():
    model, mas = network(), MAS(3.0)
    importance = fisher.sensitivity(model, [examples()], outputs=[0, 1])
    mas.consolidate(model, [(examples(), torch.full((6,), 99))], outputs=[0, 1])
    moved(model)
    expected = 0.5 * 3.0 * sum(value.sum() * 0.1**2 for value in importance.values())
    assert mas.penalty(model).item() == pytest.approx(expected.item(), rel=1e-10)


def test_tasks_add_up():
    model, mas = network(), MAS(3.0)
    total = 0.0
    for task in range(3):
        total += fisher.sensitivity(model, [examples(task)]).trace()
        mas.consolidate(model, [examples(task)])
        moved(model)
    assert mas.consolidated.curvature.trace() == pytest.approx(total, rel=1e-12)


def test_f6_the_mode_of_the_model_does_not_matter():
    model = network()
    penalties = []
    for training in (True, False):
        mas = MAS(1.0)
        model.train(training)
        mas.consolidate(model, [examples()])
        assert model.training is training
        assert int(model[1].num_batches_tracked) == 0
        moved(model, 0.5)
        penalties.append(mas.penalty(model).item())
        moved(model, -0.5)
    assert penalties[0] == pytest.approx(penalties[1], rel=1e-12)


def test_f15_one_formula_for_penalty_and_pull():
    model, mas = network(), MAS(5.0)
    mas.consolidate(model, [examples()])
    moved(model)
    mas.penalty(model).backward()
    for name, pull in mas.pull(model).items():
        torch.testing.assert_close(dict(model.named_parameters())[name].grad, pull, rtol=1e-12, atol=0)


def test_settings_reach_the_estimate():
    model = network()
    mas = MAS(1.0, parameters="3.*", examples=2, forward=lambda model, batch: (model(batch["x"]), None))
    mas.consolidate(model, [{"x": examples()}])
    assert mas.consolidated.curvature.names() == ("3.weight", "3.bias")
    assert mas.consolidated.curvature.examples == 2


def test_outputs_that_never_move_are_said_to_be_inert():
    model, mas = network(), MAS(1.0)
    with torch.no_grad():
        model[3].weight.zero_()
        model[3].bias.zero_()
    with pytest.warns(UserWarning, match="MAS is inert"):
        mas.consolidate(model, [examples()])
