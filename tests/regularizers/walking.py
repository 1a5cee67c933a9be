"""Training that a path integral listens to, and the integral as it should be, step by step and by hand."""

import torch
from torch import nn

from forgetting.curvature import Diagonal


def network(dtype=torch.float64):
    """A smooth network of two layers."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).to(dtype)


def batch(step, dtype=torch.float64):
    """Twelve examples."""
    generator = torch.Generator().manual_seed(step)
    return torch.randn(12, 4, generator=generator, dtype=dtype), torch.randint(3, (12,), generator=generator)


def task_loss(model, step):
    """The loss of the task alone."""
    inputs, targets = batch(step, next(model.parameters()).dtype)
    return nn.functional.cross_entropy(model(inputs), targets)


def task_gradients(model, step):
    """Its gradient by parameter name."""
    gradients = torch.autograd.grad(task_loss(model, step), list(model.parameters()))
    return dict(zip(dict(model.named_parameters()), gradients, strict=True))


def weights(model):
    """Copies of the present weights."""
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


def held(kind, strength=4.0, dtype=torch.float64, **settings):
    """A network away from its anchor, held with importances of about 1."""
    model, regularizer = network(dtype), kind(strength, **settings)
    regularizer.consolidate(model, curvature=Diagonal({
        name: torch.linspace(0.5, 1.5, weight.numel(), dtype=dtype).view(weight.shape)
        for name, weight in model.named_parameters()
    }))
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.3)
    return model, regularizer


def walk(model, regularizer, optimizer, *, mode="loss", accumulate=1, scaler=None, first=0, steps=4):
    """Train on single batches; Σ −g·Δθ with the task's own gradients, a step at a time."""
    expected = {name: torch.zeros_like(weight) for name, weight in weights(model).items()}
    with regularizer.attach(model, optimizer, mode=mode):
        for step in range(first, first + steps):
            before, gradients = weights(model), task_gradients(model, step)
            for _ in range(accumulate):
                loss = task_loss(model, step)
                loss = (loss + regularizer.penalty(model) if mode == "loss" else loss) / accumulate
                (scaler.scale(loss) if scaler else loss).backward()
            if scaler:
                scaler.step(optimizer)
                scaler.update()
            else:
                optimizer.step()
            optimizer.zero_grad()
            for name, weight in weights(model).items():
                expected[name] -= gradients[name] * (weight - before[name])
    return expected


def go_on(model, regularizer, optimizer):
    """Six steps more, a consolidation, the next task's first two, and all that is known then."""
    walk(model, regularizer, optimizer, first=7, steps=6)
    regularizer.consolidate(model, [batch(0)])
    walk(model, regularizer, optimizer, first=20, steps=2)
    return {"model": model.state_dict(), "regularizer": regularizer.state_dict()}


def integral(regularizer):
    """What the regularizer has added up so far."""
    return regularizer.state_dict()["path"].get("integral", {})


def close(found, expected, rtol=1e-9):
    """Equal to a relative error of each tensor."""
    assert set(found) == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=rtol, atol=rtol * float(value.abs().max()))
