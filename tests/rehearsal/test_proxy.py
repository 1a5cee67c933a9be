"""Proxy replay: the closed form, whose words are held, and what proxies may be."""

import copy
import math

import pytest
import torch

from forgetting.rehearsal import Memory, ProxyReplay
from tests.rehearsal.small import batches, network


def by_hand(old, new, temperature):
    """T²·mean KL(softmax(old/T) ‖ softmax(new/T)), one example and one class at a time."""
    total = 0.0
    for a, b in zip(old, new, strict=True):
        p, q = torch.softmax(a / temperature, 0), torch.softmax(b / temperature, 0)
        total += sum(p[c].item() * (math.log(p[c].item()) - math.log(q[c].item())) for c in range(len(p)))
    return temperature**2 * total / len(old)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
def test_the_closed_form(temperature):
    model = network(torch.float64).eval()
    proxies = torch.randn(7, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    replay = ProxyReplay(0.6, proxies=[proxies[:4], proxies[4:]], temperature=temperature, batch=99)
    replay.consolidate(model)
    old = copy.deepcopy(model)
    assert replay.penalty(model).item() == pytest.approx(0, abs=1e-12)
    model[3].weight.data += 0.5 * torch.randn(4, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected = 0.6 * by_hand(old(proxies), model(proxies), temperature)
    assert expected > 1e-3
    assert replay.penalty(model).item() == pytest.approx(expected, rel=1e-10)


def test_the_gradient_is_that_of_the_probabilities():
    model = torch.nn.Linear(3, 4, bias=False).double()
    proxies = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    replay = ProxyReplay(1.0, proxies=[proxies], temperature=3.0, batch=99)
    replay.consolidate(model)
    old = torch.softmax(model(proxies).detach() / 3, 1)
    model.weight.data += torch.randn(4, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    gradient = torch.autograd.grad(replay.penalty(model), model.weight)[0]
    new = torch.softmax(model(proxies).detach() / 3, 1)
    torch.testing.assert_close(gradient, 3 * (new - old).T @ proxies / 5, rtol=1e-10, atol=1e-13)


def test_the_old_model_is_that_of_the_last_consolidation():
    model = network().eval()
    replay = ProxyReplay(1.0, proxies=[torch.randn(6, 5)], batch=99)
    replay.consolidate(model)
    model[3].bias.data[0] += 2
    assert replay.penalty(model).item() > 0.01
    replay.consolidate(model, batches())
    assert len(replay.memory) == 6
    assert replay.penalty(model).item() == pytest.approx(0, abs=1e-6)


def test_heads_have_a_term_each_and_larger_heads_take_in_smaller_ones():
    model = network(torch.float64).eval()
    proxies = torch.randn(6, 5, dtype=torch.float64)
    tasks = ProxyReplay(1.0, proxies=[proxies], batch=99)
    tasks.consolidate(model, outputs=[0, 1])
    tasks.consolidate(model, outputs=[2, 3])
    old = model(proxies).detach()
    model[3].weight.data[0] += 1
    new = model(proxies).detach()
    apart = by_hand(old[:, :2], new[:, :2], 2.0)
    assert tasks.penalty(model).item() == pytest.approx(apart, rel=1e-10)
    model[3].weight.data[2] -= 1
    new = model(proxies).detach()
    assert tasks.penalty(model).item() == pytest.approx(apart + by_hand(old[:, 2:], new[:, 2:], 2.0), rel=1e-10)
    classes = ProxyReplay(1.0, proxies=[proxies], batch=99)
    for seen in ([0, 1], [0, 1, 2], [1, 0]):
        classes.consolidate(model, outputs=seen)
    old = model(proxies).detach()
    model[3].weight.data[1] += 1
    expected = by_hand(old[:, :3], model(proxies).detach()[:, :3], 2.0)
    assert classes.penalty(model).item() == pytest.approx(expected, rel=1e-10)


def test_no_label_is_read_and_proxies_may_come_in_any_form():
    tensors = torch.arange(30.0).view(6, 5)
    for batch in (tensors, [tensors], (tensors, "no labels"), {"input": tensors, "labels": None}):
        replay = ProxyReplay(1.0, proxies=[batch])
        model = network().eval()
        replay.consolidate(model)
        drawn = replay.memory.draw(99)
        assert drawn.targets is None
        assert torch.equal(drawn.inputs["input"] if isinstance(batch, dict) else drawn.inputs, tensors)


def test_without_proxies_the_inputs_of_the_tasks_are_taken():
    model = network().eval()
    replay = ProxyReplay(1.0, memory=Memory(share=0.5), batch=99)
    replay.consolidate(model, batches(20))
    replay.consolidate(model, batches(10, seed=1))
    assert len(replay.memory) == 15
    model[3].bias.data[0] += 1
    assert replay.penalty(model).item() > 0


def test_what_cannot_be_is_refused():
    for temperature in (0.0, -1.0, math.inf):
        with pytest.raises(ValueError, match="temperature is"):
            ProxyReplay(1.0, temperature=temperature)
    with pytest.raises(ValueError, match="needs data="):
        ProxyReplay(1.0).consolidate(network())
    replay = ProxyReplay(1.0, memory=Memory(capacity=3))
    replay.memory.add(torch.zeros(2, 5))
    with pytest.raises(ValueError, match="consolidate first"):
        replay.penalty(network(), torch.zeros(2, 5))
