"""Whatever the policy, the model and the optimizer: what is frozen does not move by a bit, and comes back whole."""

import pytest
import torch

from forgetting.curvature import Diagonal
from forgetting.execution import execution_groups
from forgetting.freezing import freeze, freeze_important, gradual_unfreezing, lp_ft
from tests.freezing.models import MODELS, NEEDS, generator, hooked, learning, step
from tests.normed import moved, state


def ends(model, inputs):
    groups = execution_groups(model, inputs, blocks=True)
    return groups[0], groups[-1]


def importance(model):
    draw = generator()
    return Diagonal({name: torch.rand(value.shape, generator=draw) for name, value in model.named_parameters()})


POLICIES = {
    "patterns": lambda model, optimizer, inputs: freeze(model, ends(model, inputs)[0]),
    "depth": lambda model, optimizer, inputs: freeze(model, depth=2, inputs=inputs),
    "probe": lambda model, optimizer, inputs: freeze(model, keep=ends(model, inputs)[1]),
    "important": lambda model, optimizer, inputs: freeze_important(model, importance(model), 0.5, inputs=inputs),
    "gradual": lambda model, optimizer, inputs: gradual_unfreezing(model, optimizer, every=100, inputs=inputs),
    "lp-ft": lambda model, optimizer, inputs: lp_ft(model, optimizer, 100, inputs=inputs),
}
OPTIMIZERS = {
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=0.01, weight_decay=0.5),
    "fused": lambda parameters: torch.optim.AdamW(parameters, lr=0.01, weight_decay=0.5, fused=True),
    "momentum": lambda parameters: torch.optim.SGD(parameters, lr=0.01, momentum=0.9, weight_decay=0.5),
}


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("name", MODELS)
def test_f13_what_is_frozen_does_not_move_by_a_bit(name, policy, kind):
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    model, inputs = MODELS[name]()
    everything = learning(model)
    optimizer = OPTIMIZERS[kind](model.parameters())
    step(model, optimizer, inputs)  # momentum, and gradients, from before
    handle = POLICIES[policy](model, optimizer, inputs)
    before, free = state(model), learning(model)
    frozen = everything - free
    assert frozen
    assert free
    still = {name for name in before if "running" in name or "tracked" in name
             if {name.rpartition(".")[0] + end for end in (".weight", ".bias")} & frozen}
    step(model, optimizer, inputs)
    model.eval()
    model.train()
    step(model, optimizer, inputs)
    assert moved(model, before) & (frozen | still) == set()
    assert moved(model, before) & free
    assert all(parameter.grad is None for name, parameter in model.named_parameters() if name in frozen)
    handle.remove()
    assert learning(model) == everything
    assert not hooked(model)
    step(model, optimizer, inputs)
    assert moved(model, before) & frozen
    assert moved(model, before) >= still


@pytest.mark.parametrize("policy", POLICIES)
def test_what_did_not_learn_before_does_not_learn_after(policy):
    model, inputs = MODELS["norms"]()
    model[3].bias.requires_grad_(False)
    optimizer = OPTIMIZERS["adamw"](model.parameters())
    with POLICIES[policy](model, optimizer, inputs):
        step(model, optimizer, inputs)
    assert learning(model) == {name for name, _ in model.named_parameters()} - {"3.bias"}


def test_some_statistics_are_held_and_others_move_in_a_resnet():
    pytest.importorskip("torchvision")
    model, inputs = MODELS["resnet"]()
    optimizer = OPTIMIZERS["adamw"](model.parameters())
    before = state(model)
    with freeze(model, ["conv1", "bn1", "layer1"]):
        step(model, optimizer, inputs)
        running = {name for name in moved(model, before) if name.endswith("running_mean")}
    assert running == {name for name in before if name.endswith("running_mean") and name.startswith(
        ("layer2", "layer3", "layer4"))}
