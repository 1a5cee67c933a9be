"""Experience replay: its mean over draws is joint training; mixed batches hold both."""

import itertools

import pytest
import torch
from torch import nn

from forgetting.rehearsal import Memory, Replay
from tests.rehearsal.small import batches, network


def slow_gradient(weight, inputs, targets):
    """The gradient of the mean cross entropy of a linear model, one example and one class at a time."""
    total = torch.zeros_like(weight)
    for one, target in zip(inputs, targets, strict=True):
        p = torch.softmax(weight @ one, 0)
        for c in range(len(p)):
            total[c] += (p[c] - float(c == target)) * one
    return total / len(inputs)


@pytest.mark.parametrize("size", [1, 2, 4])
def test_the_mean_over_all_draws_is_the_gradient_of_joint_training(size, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    source = torch.randn(5, 3, generator=generator, dtype=torch.float64), torch.tensor([0, 1, 1, 0, 2])
    target = torch.randn(4, 3, generator=generator, dtype=torch.float64), torch.tensor([2, 2, 0, 1])
    model = nn.Linear(3, 3, bias=False).double()
    replay = Replay(0.7, memory=Memory(share=1.0), batch=size)
    replay.consolidate(model, [(source[0][:2], source[1][:2]), (source[0][2:], source[1][2:])])
    gradients = []
    for rows in itertools.combinations(range(5), size):
        monkeypatch.setattr(replay.memory, "draw", lambda _, rows=rows: replay.memory.take(torch.tensor(rows)))
        loss = nn.functional.cross_entropy(model(target[0]), target[1]) + replay.penalty(model)
        gradients.append(torch.autograd.grad(loss, model.weight)[0])
    weight = model.weight.detach()
    joint = slow_gradient(weight, *target) + 0.7 * slow_gradient(weight, *source)
    torch.testing.assert_close(torch.stack(gradients).mean(0), joint, rtol=1e-12, atol=1e-14)
    if size < 4:
        assert (torch.stack(gradients).std(0) > 1e-3).any()


def test_it_keeps_what_would_be_forgotten():
    generator = torch.Generator().manual_seed(0)
    old, new = (torch.randn(200, 6, generator=generator) for _ in range(2))
    old[:, 5], new[:, 5] = -1, 1  # what the tasks have in common is one feature, which they read the other way round
    tasks = (old, (old[:, 0] > 0).long()), (new, (new[:, 0] < 0).long())

    def accuracy_after(strength):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 2))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        replay = Replay(strength, memory=Memory(share=0.1))
        for inputs, targets in tasks:
            for _ in range(60):
                loss = nn.functional.cross_entropy(model(inputs), targets) + replay.penalty(model, inputs)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            replay.consolidate(model, [(inputs, targets)])
        return (model(old).argmax(1) == tasks[0][1]).float().mean().item()

    assert accuracy_after(1.0) > accuracy_after(0.0) + 0.2


@pytest.mark.parametrize("batch", [3, None])
def test_mixed_batches_hold_the_loaders_and_then_drawn_ones(batch):
    replay = Replay(memory=Memory(share=1.0), batch=batch)
    loader = batches(20, size=8, seed=5)
    assert [len(targets) for _, targets in replay.mixed(loader)] == [8, 8, 4]
    replay.consolidate(network(), batches(30))
    mixed = replay.mixed(loader)
    assert len(mixed) == 3
    old = {tuple(one.tolist()) for one in batches(30, size=30)[0][0]}
    for (inputs, targets), (mine, labels) in zip(loader, mixed, strict=True):
        drawn = batch or len(inputs)
        assert torch.equal(mine[: len(inputs)], inputs)
        assert torch.equal(labels[: len(targets)], targets)
        assert len(mine) == len(labels) == len(inputs) + drawn
        assert all(tuple(one.tolist()) in old for one in mine[len(inputs):])
    assert len(list(mixed)) == 3


def test_mixed_batches_of_a_mapping_keep_its_form():
    replay = Replay(memory=Memory(share=1.0), batch=1)
    loader = [{"input_ids": torch.arange(6).view(2, 3), "labels": torch.tensor([1, 0])}]
    replay.consolidate(network(), loader)
    batch = next(iter(replay.mixed(loader)))
    assert batch["input_ids"].shape == (3, 3)
    assert batch["labels"].shape == (3,)
    with pytest.raises(ValueError, match="one structure"):
        list(replay.mixed(batches()))
