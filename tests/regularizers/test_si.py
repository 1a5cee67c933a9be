"""SI: the importance is the paper's, survives a save in the middle of a task, and says where it cannot help."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from forgetting.regularizers import SI, RWalk
from tests.regularizers.small import Weights
from tests.regularizers.walking import close, go_on, held, integral, network, task_loss, walk, weights

# Goes on from a file, in a process of its own, and writes what came of it.
CONTINUED = """
import sys, torch
from forgetting.regularizers import RWalk, SI
from tests.regularizers.walking import go_on, network
kind, source, target = sys.argv[1:]
state = torch.load(source, weights_only=True)
model, regularizer = network(), {"SI": SI, "RWalk": RWalk}[kind](2.0)
optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
for each, name in ((model, "model"), (optimizer, "optimizer"), (regularizer, "regularizer")):
    each.load_state_dict(state[name])
torch.save(go_on(model, regularizer, optimizer), target)
"""


def flat(value, name=""):
    """Every tensor and number of a state by its path."""
    if isinstance(value, dict):
        return {key: entry for part, inner in value.items() for key, entry in flat(inner, f"{name}/{part}").items()}
    return {name: value}


@pytest.mark.parametrize("kind", [SI, RWalk])
def test_a_task_goes_on_in_another_process_bit_by_bit(kind, tmp_path):
    model, regularizer = held(kind, strength=2.0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    walk(model, regularizer, optimizer, steps=7)
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(),
                "regularizer": regularizer.state_dict()}, tmp_path / "middle.pt")
    subprocess.run([sys.executable, "-c", CONTINUED, kind.__name__, tmp_path / "middle.pt", tmp_path / "end.pt"],
                   check=True, cwd=Path(__file__).parents[2])
    found = flat(torch.load(tmp_path / "end.pt", weights_only=True))
    expected = flat(go_on(model, regularizer, optimizer))
    assert set(found) == set(expected)
    for name, value in expected.items():
        same = torch.equal(found[name], value) if isinstance(value, torch.Tensor) else found[name] == value
        assert same, name
    assert any("integral" in name for name in expected)


def test_the_importance_is_the_papers():
    model, si = network(), SI(3.0, damping=0.01)
    start = weights(model)
    omega = walk(model, si, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), steps=8)
    si.consolidate(model)
    expected = {name: omega[name].clamp(min=0) / ((weight - start[name]) ** 2 + 0.01)
                for name, weight in weights(model).items()}
    close(dict(si.consolidated.curvature), expected)
    anchor = weights(model)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.linspace(-1, 1, weight.numel(), dtype=weight.dtype).view(weight.shape))
    penalty = sum(0.5 * 3.0 * (expected[name] * (weight - anchor[name]) ** 2).sum()
                  for name, weight in weights(model).items())
    assert si.penalty(model).item() == pytest.approx(penalty.item(), rel=1e-12)


def test_a_second_task_has_a_path_of_its_own_and_adds_up():
    model, si = network(), SI(3.0)
    omegas, starts, ends = [], [], []
    for task in range(2):
        starts.append(weights(model))
        omegas.append(walk(model, si, torch.optim.SGD(model.parameters(), lr=0.1), first=10 * task, steps=5))
        ends.append(weights(model))
        si.consolidate(model)
    close(dict(si.consolidated.curvature), {
        name: sum(omega[name].clamp(min=0) / ((end[name] - start[name]) ** 2 + 1e-3)
                  for omega, start, end in zip(omegas, starts, ends, strict=True))
        for name in starts[0]
    })
    assert all(torch.equal(si.consolidated.anchor[name], weight) for name, weight in weights(model).items())


def test_where_the_loss_grew_nothing_is_held():
    model, si = Weights(up=[0.0], down=[0.0]), SI(1.0)
    optimizer = torch.optim.SGD([{"params": [model.down]}, {"params": [model.up], "weight_decay": 3.0}], lr=0.1)
    model.up.data.fill_(1.0)
    with si.attach(model, optimizer):
        model.up.grad, model.down.grad = torch.tensor([-1.0]), torch.tensor([1.0])
        optimizer.step()
    si.consolidate(model)
    assert integral(si) == {}
    assert si.consolidated.curvature["up"].item() == 0
    assert si.consolidated.curvature["down"].item() == pytest.approx(0.1 / (0.01 + 1e-3))


def test_f3_importances_are_not_cut_off():
    model, si = network(), SI(1.0)
    walk(model, si, torch.optim.SGD(model.parameters(), lr=0.1), steps=8)
    si.consolidate(model)
    every = torch.cat([value.flatten() for value in si.consolidated.curvature.values()])
    assert every.max() > 0.1
    assert every.quantile(0.9) > 10 * every[every > 0].min()


@pytest.mark.parametrize("mode", ["gradient", "proximal"])
def test_a_proximal_step_is_part_of_the_way(mode):
    model, si = held(SI, strength=50.0)
    before = weights(model)
    expected = walk(model, si, torch.optim.SGD(model.parameters(), lr=0.01), mode=mode, steps=1)
    moved = weights(model)["0.weight"] - before["0.weight"]
    assert moved.abs().min() > 0.05
    close(integral(si), expected)


def test_a_model_without_a_path_is_not_protected_and_that_is_said():
    model, si = network(), SI(1.0)
    with pytest.warns(UserWarning, match="listened to no step.*use EWC or MAS"):
        si.consolidate(model)
    with torch.no_grad():
        model[0].weight += 1
    assert si.penalty(model).item() == 0


def test_data_is_accepted_and_not_read():
    def data():
        raise AssertionError("read")
        yield

    model, si = network(), SI(1.0)
    walk(model, si, torch.optim.SGD(model.parameters(), lr=0.1))
    si.consolidate(model, data(), outputs=[0, 1])
    assert si.consolidated.curvature.largest() > 0


@pytest.mark.parametrize("damping", [0.0, -1.0, float("inf"), float("nan")])
def test_a_damping_is_above_0(damping):
    with pytest.raises(ValueError, match="damping"):
        SI(1.0, damping=damping)


def test_a_failed_consolidation_keeps_the_path():
    model, si = network(), SI(1.0)
    expected = walk(model, si, torch.optim.SGD(model.parameters(), lr=0.1))
    with pytest.raises(TypeError, match="curvature="):
        si.consolidate(model, curvature="matrix")
    close(integral(si), expected)


@pytest.mark.parametrize("anchors", ["latest", "separate"])
def test_f15_one_formula_for_penalty_and_pull(anchors):
    model, si = network(), SI(5.0, anchors=anchors)
    for task in range(2):
        walk(model, si, torch.optim.SGD(model.parameters(), lr=0.1), first=10 * task)
        si.consolidate(model)
    task_loss(model, 3).backward()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1).grad = None
    si.penalty(model).backward()
    close({name: weight.grad for name, weight in model.named_parameters()}, si.pull(model))
