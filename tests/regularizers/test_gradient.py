"""The pull that is added once a step: loss mode's gradient, exactly, and only where it belongs."""

import copy

import pytest
import torch
from torch import nn

from forgetting.curvature import Diagonal
from forgetting.regularizers import EWC, L2SP
from tests.regularizers.small import Weights, importances

CPU_SCALER = {"init_scale": 2.0**12, "growth_interval": 3}


def start(dtype=torch.float32):
    """A pretrained network, and EWC around weights that it has left a little."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).to(dtype)
        ewc = EWC(strength=0.05)
        ewc.consolidate(model, curvature=importances(model, 1))
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(0.1 * torch.randn_like(weight))
    return model, ewc


def batch(step, dtype=torch.float32):
    """Sixteen examples."""
    generator = torch.Generator().manual_seed(step)
    return torch.randn(16, 6, generator=generator, dtype=dtype), torch.randint(3, (16,), generator=generator)


def train(mode, *, accumulate=1, kind=torch.optim.SGD, scaler=None, dtype=torch.float32, steps=20, **settings):
    """Weights after some steps in one mode."""
    model, ewc = start(dtype)
    optimizer = kind(model.parameters(), **settings)
    with ewc.attach(model, optimizer, mode=mode):
        for step in range(steps):
            inputs, targets = batch(step, dtype)
            for part, labels in zip(inputs.chunk(accumulate), targets.chunk(accumulate), strict=True):
                loss = nn.functional.cross_entropy(model(part), labels)
                loss = (loss + ewc.penalty(model) if mode == "loss" else loss) / accumulate
                (scaler.scale(loss) if scaler else loss).backward()
            if scaler:
                scaler.step(optimizer)
                scaler.update()
            else:
                optimizer.step()
            optimizer.zero_grad()
    return {name: weight.detach() for name, weight in model.named_parameters()}


def close(left, right, error=1e-6):
    """Equal to an absolute and relative error."""
    for name in left:
        torch.testing.assert_close(left[name], right[name], rtol=error, atol=error)


SGD = {"lr": 0.05}


@pytest.mark.parametrize("accumulate", [1, 4, 8])
@pytest.mark.parametrize("settings", [{}, {"momentum": 0.9}, {"momentum": 0.9, "weight_decay": 0.1, "nesterov": True}])
def test_gradient_mode_is_loss_mode_under_sgd(accumulate, settings):
    loss = train("loss", accumulate=accumulate, **SGD, **settings)
    gradient = train("gradient", accumulate=accumulate, **SGD, **settings)
    close(loss, gradient)
    with pytest.raises(AssertionError):
        close(loss, train("loss", accumulate=accumulate, **SGD, **settings, steps=19))


def test_gradient_mode_is_loss_mode_under_adam():
    close(train("loss", kind=torch.optim.AdamW, lr=1e-2, dtype=torch.float64),
          train("gradient", kind=torch.optim.AdamW, lr=1e-2, dtype=torch.float64), 1e-9)


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW])
@pytest.mark.parametrize("fused", [False, True])
def test_a_gradient_scaler_changes_nothing(kind, fused):
    scaler = torch.amp.GradScaler("cpu", **CPU_SCALER)
    settings = {"kind": kind, "lr": 0.01, "fused": fused}
    close(train("gradient", scaler=scaler, **settings), train("gradient", **settings), 1e-5)
    assert scaler.get_scale() > CPU_SCALER["init_scale"]


@pytest.mark.parametrize("mode", ["gradient", "proximal"])
@pytest.mark.parametrize("fused", [False, True])
def test_an_overflow_skips_the_pull_with_the_step(mode, fused):
    model, ewc = start()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, fused=fused)
    scaler = torch.amp.GradScaler("cpu", **CPU_SCALER)
    before = copy.deepcopy(model.state_dict())
    with ewc.attach(model, optimizer, mode=mode):
        scaler.scale(model(batch(0)[0]).sum() * float("inf")).backward()
        scaler.step(optimizer)
        scaler.update()
        assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())
        optimizer.zero_grad()
        scaler.scale(model(batch(0)[0]).sum()).backward()
        scaler.step(optimizer)
    assert not any(torch.equal(model.state_dict()[name], value) for name, value in before.items())


def test_an_unscaled_fused_optimizer_is_not_scaled_twice():
    results = []
    for scaler in (None, torch.amp.GradScaler("cpu", **CPU_SCALER)):
        model, ewc = start()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, fused=True)
        with ewc.attach(model, optimizer, mode="gradient"):
            loss = nn.functional.cross_entropy(model(batch(0)[0]), batch(0)[1])
            (scaler.scale(loss) if scaler else loss).backward()
            if scaler:
                scaler.unscale_(optimizer)
                scaler.step(optimizer)
            else:
                optimizer.step()
        results.append({name: weight.detach() for name, weight in model.named_parameters()})
    close(*results)


def held():
    """Four weights one away from their anchors, with importance 1."""
    model = Weights(free=[0.0], silent=[0.0], frozen=[0.0], foreign=[0.0])
    ewc = EWC(strength=2.0)
    ewc.consolidate(model, curvature=Diagonal({name: torch.ones(1) for name, _ in model.named_parameters()}))
    for weight in model.parameters():
        weight.data.fill_(1.0)
    return model, ewc


def test_only_what_the_optimizer_moves_is_pulled():
    model, ewc = held()
    model.frozen.requires_grad_(False)
    optimizer = torch.optim.SGD([model.free, model.silent, model.frozen], lr=0.25)
    model.free.grad = torch.ones(1)
    with ewc.attach(model, optimizer, mode="gradient"):
        optimizer.step()
    assert [weight.item() for weight in model.parameters()] == [0.25, 0.5, 1.0, 1.0]
    assert model.silent.grad.item() == 2.0
    assert model.frozen.grad is None
    assert model.foreign.grad is None


def test_a_gradient_keeps_its_place_and_dtype():
    model, ewc = held()
    model.to(torch.bfloat16)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.25)
    model.free.grad = gradient = torch.ones(1, dtype=torch.bfloat16)
    with ewc.attach(model, optimizer, mode="gradient"):
        optimizer.step()
    assert model.free.grad is gradient
    assert gradient.item() == 3.0
    assert model.silent.grad.dtype == torch.bfloat16


def test_sparse_gradients_become_dense():
    table = nn.Embedding(4, 2, sparse=True)
    l2sp = L2SP(strength=1.0)
    l2sp.consolidate(table)
    table.weight.data.add_(1.0)
    table(torch.tensor([1])).sum().backward()
    optimizer = torch.optim.SGD(table.parameters(), lr=1.0)
    with l2sp.attach(table, optimizer, mode="gradient"):
        optimizer.step()
    torch.testing.assert_close(table.weight.grad, torch.tensor([[1.0, 1], [2, 2], [1, 1], [1, 1]]))


@pytest.mark.parametrize("call", [lambda o, c: o.step(c), lambda o, c: o.step(closure=c)])
def test_a_closure_raises_before_anything_moves(call):
    model, ewc = held()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    with ewc.attach(model, optimizer, mode="gradient"):
        with pytest.raises(RuntimeError, match="EWC works on gradients before the step, and a step with a closure"):
            call(optimizer, lambda: torch.ones(()))
        assert model.free.item() == 1.0
        call(optimizer, None)
        assert model.free.item() == -1.0


@pytest.mark.parametrize("mode", ["gradient", "proximal"])
def test_an_optimizer_that_climbs_is_refused(mode):
    model, ewc = held()
    with pytest.raises(ValueError, match="maximize=True"):
        ewc.attach(model, torch.optim.SGD(model.parameters(), lr=1.0, maximize=True), mode=mode)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    with ewc.attach(model, optimizer, mode=mode):
        optimizer.param_groups[0]["maximize"] = True
        with pytest.raises(ValueError, match="maximize=True"):
            optimizer.step()


@pytest.mark.parametrize("mode", ["gradient", "proximal"])
def test_an_optimizer_of_other_weights_is_refused(mode):
    model, ewc = held()
    with pytest.raises(ValueError, match="holds none of this model's parameters"):
        ewc.attach(model, torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=1.0), mode=mode)
