"""Unfreezing: phase by phase in the order of the forward pass, with one set of groups, resumed to the bit."""

import copy
import json
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import LambdaLR

from forgetting import EWC
from forgetting.curvature import Diagonal
from forgetting.execution import execution_groups
from forgetting.freezing import Unfreezing, freeze, gradual_unfreezing, lp_ft
from forgetting.rates import layerwise_decay
from tests.freezing import resumed
from tests.freezing.models import MODELS, NEEDS, Reversed, hooked, learning, step
from tests.house.sources import ROOT
from tests.normed import images, moved, network, state


def adamw(model):
    return torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)


def phases(model, optimizer, unfreezing, inputs, steps):
    """What learns at each step, as ``requires_grad`` and the weights themselves say."""
    seen = []
    for _ in range(steps):
        before, free = state(model), learning(model)
        step(model, optimizer, inputs)
        unfreezing.step()
        assert {name for name in moved(model, before) if name in dict(model.named_parameters())} <= free
        seen.append(free)
    return seen


def test_one_layer_more_each_phase_in_the_order_of_the_forward_pass():
    model, inputs = Reversed(), torch.ones(2, 3)
    optimizer = adamw(model)
    unfreezing = gradual_unfreezing(model, optimizer, every=2, inputs=inputs)
    head = {"head.weight", "head.bias", "never.weight", "never.bias"}  # what never runs is not held
    middle = head | {"middle.weight", "middle.bias"}
    whole = middle | {"body.weight", "body.bias"}
    assert phases(model, optimizer, unfreezing, inputs, 6) == [head, head, middle, middle, whole, whole]
    assert (unfreezing.phase, unfreezing.frozen) == (2, ())


@pytest.mark.parametrize(("steps", "starts"), [(3, [0, 1, 2]), (9, [0, 3, 6]), (10, [0, 3, 6]), (11, [0, 3, 7])])
def test_phases_are_spread_over_the_steps(steps, starts):
    model = Reversed()
    model.never.requires_grad_(False)
    unfreezing = gradual_unfreezing(model, adamw(model), steps=steps, inputs=torch.ones(2, 3))
    assert unfreezing.state_dict()["starts"] == starts
    assert [unfreezing.phase for _ in range(steps) if unfreezing.step() is None][-1] == 2


@pytest.mark.parametrize("name", [name for name in MODELS if name != "norms"])
def test_the_layers_are_those_of_the_execution_order_with_blocks(name):
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    model, inputs = MODELS[name]()
    groups = execution_groups(model, inputs, blocks=True)
    unfreezing = gradual_unfreezing(model, adamw(model), every=1, inputs=inputs)
    assert [sorted(names) for names in unfreezing.state_dict()["phases"]] == [
        sorted(names) for names in reversed(groups)]
    assert learning(model) == set(groups[-1])
    for number in range(1, len(groups)):
        unfreezing.step()
        assert learning(model) == {name for group in groups[-1 - number:] for name in group}
    assert not hooked(model)


def test_a_layer_that_does_not_learn_takes_no_phase():
    model, inputs = network(), images()
    with freeze(model, ["3", "4"]):
        unfreezing = gradual_unfreezing(model, adamw(model), every=1, inputs=inputs)
        assert len(unfreezing.state_dict()["phases"]) == 3
        unfreezing.step()
        assert learning(model) == {"7.weight", "7.bias", "1.weight", "1.bias"}
        unfreezing.remove()
    assert len(learning(model)) == 10


def test_statistics_of_a_norm_without_parameters_move_once_the_layer_before_it_learns():
    model, inputs = network(affine=False), images()
    optimizer = adamw(model)
    unfreezing = gradual_unfreezing(model, optimizer, every=1, inputs=inputs)
    seen = []
    for _ in range(4):
        before = state(model)
        step(model, optimizer, inputs)
        unfreezing.step()
        seen.append({name for name in moved(model, before) if name.endswith("running_mean")})
    assert seen == [set(), {"4.running_mean"}, {"4.running_mean"}, {"4.running_mean", "1.running_mean"}]


@pytest.mark.parametrize(("steps", "share", "alone"), [(10, 0.5, 5), (10, 0.01, 1), (10, 0.99, 9), (2, 0.5, 1)])
def test_lp_ft_trains_the_head_and_then_everything(steps, share, alone):
    model, inputs = network(), images()
    optimizer = adamw(model)
    seen = phases(model, optimizer, lp_ft(model, optimizer, steps, share=share, inputs=inputs), inputs, steps)
    assert [len(free) for free in seen] == alone * [2] + (steps - alone) * [10]
    assert seen[0] == {"7.weight", "7.bias"}


@pytest.mark.parametrize("head", ["body", "body.*", lambda name: name.startswith("body")])
def test_lp_ft_with_a_head_of_ones_own(head):
    model = Reversed()
    with lp_ft(model, adamw(model), 10, head=head) as unfreezing:
        assert learning(model) == {"body.weight", "body.bias"}
        assert unfreezing.phase == 0
    assert len(learning(model)) == 8


def test_before_the_second_phase_lp_ft_is_a_linear_probe_to_the_bit():
    probed, inputs = network(), images()
    model = copy.deepcopy(probed)
    optimizer, other = adamw(model), adamw(probed)
    unfreezing = lp_ft(model, optimizer, 6, inputs=inputs)
    freeze(probed, keep="7")
    for _ in range(3):
        step(model, optimizer, inputs)
        unfreezing.step()
        step(probed, other, inputs)
    assert not moved(model, state(probed))
    step(model, optimizer, inputs)
    step(probed, other, inputs)
    assert "0.weight" in moved(model, state(probed))


def test_schedulers_and_groups_survive():
    model, inputs = network(), images()
    optimizer = torch.optim.AdamW(layerwise_decay(model, 0.01, 0.5, inputs=inputs))
    schedule = LambdaLR(optimizer, lambda step: 0.5**step)
    unfreezing = gradual_unfreezing(model, optimizer, every=1, inputs=inputs)
    for number in range(6):
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx(
            [0.01 * 0.5**distance * 0.5**number for distance in (4, 3, 2, 1, 0)])
        step(model, optimizer, inputs)
        schedule.step()
        unfreezing.step()


def test_a_run_continues_to_the_bit_in_a_new_process(tmp_path):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            whole, paused = resumed.Run(seed=0), resumed.Run(seed=0)
        whole.go(resumed.STEPS)
        paused.go(resumed.PAUSE)
    finally:
        torch.set_num_threads(threads)
    assert paused.unfreezing.phase == 2
    assert paused.unfreezing.frozen
    torch.save(paused.state(), tmp_path / "paused.pt")
    done = subprocess.run([sys.executable, "-m", "tests.freezing.resumed", str(tmp_path)], cwd=ROOT, check=False,
                          capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    continued = torch.load(tmp_path / "continued.pt", weights_only=True)
    assert continued["unfreezing"] == whole.unfreezing.state_dict()
    assert continued["schedule"]["_last_lr"] == whole.schedule.get_last_lr()
    assert all(torch.equal(value, continued["model"][name]) for name, value in whole.model.state_dict().items())
    for place, memory in whole.optimizer.state_dict()["state"].items():
        assert all(torch.equal(value, continued["optimizer"]["state"][place][name]) for name, value in memory.items())


def test_the_state_is_plain_and_brings_its_phases_along():
    model, inputs = Reversed(), torch.ones(2, 3)
    unfreezing = gradual_unfreezing(model, adamw(model), every=3, inputs=inputs)
    for _ in range(4):
        unfreezing.step()
    saved = json.loads(json.dumps(unfreezing.state_dict()))
    twin = copy.deepcopy(model).requires_grad_(True)
    other = lp_ft(twin, adamw(twin), 100)  # other phases, of the order of registration
    other.load_state_dict(saved)
    assert learning(twin) == learning(model)
    assert (other.phase, other.frozen) == (1, ("body.weight", "body.bias"))
    other.step()
    other.step()
    assert other.frozen == ()


def test_a_state_can_lead_back():
    model = network()
    unfreezing = gradual_unfreezing(model, adamw(model), every=1, inputs=images())
    first = unfreezing.state_dict()
    for _ in range(5):
        unfreezing.step()
    assert len(learning(model)) == 10
    unfreezing.load_state_dict(first)
    assert learning(model) == {"7.weight", "7.bias"}
    unfreezing.remove()
    assert len(learning(model)) == 10
    assert not hooked(model)


def test_a_state_that_does_not_fit_changes_nothing():
    model = network()
    unfreezing = gradual_unfreezing(model, adamw(model), every=1, inputs=images())
    unfreezing.step()
    before, free = unfreezing.state_dict(), learning(model)
    with pytest.raises(ValueError, match=r"Sequential has no 'nine'.*those of another model"):
        unfreezing.load_state_dict({**before, "phases": [["7.weight"], ["nine"]], "starts": [0, 1]})
    assert (unfreezing.state_dict(), learning(model)) == (before, free)
    unfreezing.remove()
    with pytest.raises(ValueError, match="was removed"):
        unfreezing.load_state_dict(before)


@pytest.mark.parametrize("make", [lambda *given: gradual_unfreezing(*given, every=1), lambda *given: lp_ft(*given, 9)])
def test_an_optimizer_that_lacks_what_learns_later_is_refused(make):
    model = network()
    optimizer = torch.optim.AdamW([value for name, value in model.named_parameters() if name != "3.weight"])
    with pytest.raises(ValueError, match=r"lacks 1 parameters that are to learn later \(3.weight\)"):
        make(model, optimizer)
    assert len(learning(model)) == 10
    model[3].weight.requires_grad_(False)
    make(model, optimizer)


@pytest.mark.parametrize("mode", ["loss", "gradient", "proximal"])
def test_a_pull_does_not_move_what_is_frozen(mode):
    model, inputs = network(), images()
    optimizer = adamw(model)
    ewc = EWC(strength=10.0)
    ewc.consolidate(model, curvature=Diagonal({name: torch.ones_like(value)
                                               for name, value in model.named_parameters()}))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1
    with ewc.attach(model, optimizer, mode=mode):
        unfreezing = gradual_unfreezing(model, optimizer, every=2, inputs=inputs)
        before = state(model)
        for _ in range(2):
            optimizer.zero_grad()
            loss = model(inputs).square().mean() + (ewc.penalty(model) if mode == "loss" else 0)
            loss.backward()
            optimizer.step()
            unfreezing.step()
        assert moved(model, before) & set(dict(model.named_parameters())) == {"7.weight", "7.bias"}


def test_compiled_code_sees_that_more_learns():
    model, inputs = network(), images()
    compiled = torch.compile(model, backend="aot_eager")
    optimizer = adamw(model)
    step(compiled, optimizer, inputs)
    unfreezing = lp_ft(compiled, optimizer, 4, inputs=inputs)
    before = state(model)
    step(compiled, optimizer, inputs)
    assert moved(model, before) == {"7.weight", "7.bias"}
    unfreezing.step()
    unfreezing.step()
    step(compiled, optimizer, inputs)
    assert moved(model, before) >= {"0.weight", "1.running_mean", "7.weight"}


def wrapped():
    """A wrapper that needs no group of processes, for what looks at its kind only."""
    wrapper = DistributedDataParallel.__new__(DistributedDataParallel)
    nn.Module.__init__(wrapper)
    return wrapper


@pytest.mark.parametrize(("call", "words"), [
    (lambda model: gradual_unfreezing(model, adamw(model)), "either steps= .* or every= .*, not none"),
    (lambda model: gradual_unfreezing(model, adamw(model), steps=9, every=3), "not both"),
    (lambda model: gradual_unfreezing(model, adamw(model), steps=4), "steps=4 are fewer than the 5 layers"),
    (lambda model: gradual_unfreezing(model, adamw(model), every=0), "every=0 must be a whole number of steps, at l"),
    (lambda model: gradual_unfreezing(model, adamw(model), every=1.5), "every=1.5 must be"),
    (lambda model: gradual_unfreezing(model[7], adamw(model), every=1), "Linear has 1 layers that learn"),
    (lambda model: lp_ft(model, adamw(model), 1), "steps=1 must be a whole number of steps, at least 2"),
    (lambda model: lp_ft(model, adamw(model), 10, share=1.0), r"share=1.0 must lie in \(0, 1\)"),
    (lambda model: lp_ft(model, adamw(model), 10, head="8"), "'8' matches none"),
    (lambda model: lp_ft(model, adamw(model), 10, head="*"), "nothing in the body requires a gradient"),
    (lambda model: lp_ft(model, adamw(model), 10, head="7", inputs=images()), "give one of them"),
    (lambda model: lp_ft(model[7], adamw(model), 10), "nothing in the body"),
    (lambda model: Unfreezing(model, adamw(model), [], []), "0 phases take as many starts"),
    (lambda model: Unfreezing(model, adamw(model), [["7.bias"], ["0.bias"]], [0, 0]), "rise from 0, not"),
    (lambda model: Unfreezing(model, adamw(model), [["7.bias"], ["0.bias"]], [1, 2]), "rise from 0, not"),
    (lambda model: Unfreezing(model, adamw(model), [["7.bias"], ["0.bias"]], [0, 1.5]), "whole numbers"),
    (lambda model: Unfreezing(model, adamw(model), [["7.bias"], ["7.bias"]], [0, 1]), "7.bias in two phases"),
    (lambda model: Unfreezing(wrapped(), adamw(model), [["7.bias"]], [0]), "DistributedDataParallel goes on"),
])
def test_bad_input_raises_and_changes_nothing(call, words):
    model = network()
    with pytest.raises(ValueError, match=words):
        call(model)
    assert len(learning(model)) == 10
    assert not hooked(model)
