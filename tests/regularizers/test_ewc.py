"""EWC hands the Fisher what it was told, and says when it is inert."""

import warnings

import pytest
import torch
from torch import nn

from forgetting import fisher
from forgetting.regularizers import EWC


def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 4)).double()


def batches(size=5):
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(20, 4, generator=generator, dtype=torch.float64)
    return list(zip(inputs.split(size), (torch.arange(20) % 4).split(size), strict=True))


@pytest.mark.parametrize("settings", [
    {}, {"labels": "empirical"}, {"labels": "sampled"}, {"labels": "batched"}, {"examples": 7},
    {"parameters": "2.*"}, {"likelihood": fisher.Categorical()},
], ids=lambda found: ",".join(f"{key}={value}" if isinstance(value, str) else key for key, value in found.items()))
def test_every_setting_reaches_the_fisher(settings):
    model = network()
    ewc = EWC(1.0, **settings)
    ewc.consolidate(model, batches())
    expected = fisher.diagonal(model, batches(), **settings)
    found = ewc.consolidated.curvature
    assert dict(found).keys() == dict(expected).keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name])


def test_outputs_and_forward_reach_the_fisher():
    model = network()
    mappings = [{"pixels": inputs, "answer": targets % 2} for inputs, targets in batches()]
    ewc = EWC(1.0, forward=lambda model, batch: (model(batch["pixels"]), batch["answer"]))
    ewc.consolidate(model, mappings, outputs=(0, 1))
    assert (ewc.consolidated.curvature["2.bias"][2:] == 0).all()
    assert (ewc.consolidated.curvature["2.bias"][:2] > 0).all()


def test_the_seed_draws_the_labels_and_each_task_draws_its_own():
    def importance(seed, tasks=1):
        model = network()
        ewc = EWC(1.0, labels="sampled", seed=seed, decay=0.0)
        for _ in range(tasks):
            ewc.consolidate(model, batches())
        return ewc.consolidated.curvature["0.weight"]

    assert torch.equal(importance(3), importance(3))
    assert not torch.equal(importance(3), importance(4))
    assert not torch.equal(importance(3), importance(3, tasks=2))


def test_a_certain_model_makes_ewc_inert_and_it_says_so():
    model = network()
    with torch.no_grad():
        model[2].bias.copy_(torch.tensor([1e3, 0, 0, 0]))
    with pytest.warns(UserWarning, match="EWC is inert: its largest importance is"):
        EWC(1.0).consolidate(model, batches())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        EWC(1.0).consolidate(network(), batches())
