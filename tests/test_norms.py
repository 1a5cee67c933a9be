"""Norm statistics held still: they move by no way there is, and every flag stays as its owner set it."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional

from forgetting.norms import still
from tests import pretrained
from tests.normed import images, moved, network, state, train


def test_still_normalises_by_the_stored_statistics_and_leaves_them():
    model = network()
    train(model, torch.optim.SGD(model.parameters(), 0.1))
    expected = model.eval()(images())
    before = state(model)
    still(model)
    model.train()
    assert torch.equal(model(images()), expected)
    assert moved(model, before) == set()
    assert all(module.training for module in model.modules())


def test_f7_every_flag_stays_as_its_owner_set_it():
    model = network().train()
    model[1].eval()
    before = state(model)
    with still(model):
        model(images())
        assert (model[1].training, model[4].training) == (False, True)
    assert (model[1].training, model[4].training) == (False, True)
    model(images())
    assert moved(model, before) == {"4.running_mean", "4.running_var", "4.num_batches_tracked"}


def test_still_survives_an_exception_in_the_layer():
    model = network().train()
    before = state(model)
    with still(model):
        with pytest.raises((RuntimeError, ValueError)):
            model[1](torch.zeros(2, 7, 3, 3))
        assert model[1].training
        model(images())
        assert moved(model, before) == set()
    assert not [name for name in vars(model[1]) if name.startswith("_still")]


def test_a_keyboard_interrupt_in_the_layer_leaves_no_trace_after_the_block():
    class Interrupted(nn.BatchNorm1d):
        def forward(self, _):
            raise KeyboardInterrupt

    model = nn.Sequential(nn.Linear(2, 2), Interrupted(2))
    with pytest.raises(KeyboardInterrupt), still(model):
        model(torch.zeros(3, 2))
    assert model[1].training
    assert not model[1]._forward_hooks


@pytest.mark.parametrize("first", [0, 1])
def test_two_handles_hold_until_the_last_is_removed(first):
    model = network().train()
    before = state(model)
    handles = [still(model), still(model)]
    handles[first].remove()
    handles[first].remove()
    model(images())
    assert moved(model, before) == set()
    assert model[1].training
    handles[1 - first].remove()
    model(images())
    assert "1.running_mean" in moved(model, before)
    assert not model[1]._forward_hooks
    assert not model[1]._forward_hooks_always_called


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_stay_still(duplicate):
    model = network()
    handle = still(model)
    twin = duplicate(model).train()
    before = state(twin)
    handle.remove()
    twin(images())
    assert moved(twin, before) == set()
    model(images())
    assert "1.running_mean" in moved(model, before)


@pytest.mark.parametrize("compiled_first", [True, False])
def test_still_reaches_compiled_models(compiled_first):
    model = network().train()
    compiled = torch.compile(model, backend="eager")
    if compiled_first:
        compiled(images())
    before = state(model)
    handle = still(model)
    expected = model.eval()(images())
    compiled.train()
    assert torch.equal(compiled(images()), expected)
    assert moved(model, before) == set()
    assert model[1].training
    handle.remove()
    compiled(images())
    assert "1.running_mean" in moved(model, before)


def test_still_on_other_norms_and_on_none():
    model = nn.Sequential(nn.InstanceNorm2d(1, track_running_stats=True), nn.SyncBatchNorm(1)).train()
    before = state(model)
    with still(model):
        model[0](images())
        assert torch.allclose(model[1](images()), images() / (1 + 1e-5) ** 0.5)
        assert moved(model, before) == set()
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2, track_running_stats=False))
    with still(model):
        assert not model[1]._forward_hooks


def test_still_leaves_dropout_on():
    model = nn.Sequential(nn.BatchNorm1d(50), nn.Dropout())
    with still(model):
        assert (model.train()(torch.ones(2, 50)) == 0).any()


def efficientnet():
    pytest.importorskip("timm")
    return pretrained.efficientnet()


def test_f28_forward_passes_alone_change_an_efficientnet_unless_still():
    model, source, shifted = efficientnet(), images(channels=3, size=32), images(channels=3, size=32) * 3 + 5
    model.train()
    for _ in range(30):
        model(source)
    weights = [parameter.detach().clone() for parameter in model.parameters()]
    before, outputs = state(model), model.eval()(source)
    with still(model), torch.no_grad():
        model.train()
        for _ in range(5):
            model(shifted)
    assert moved(model, before) == set()
    assert torch.equal(model.eval()(source), outputs)
    with torch.no_grad():
        model.train()
        for _ in range(5):
            model(shifted)
    assert not torch.allclose(model.eval()(source), outputs, atol=0.1)
    assert all(torch.equal(old, new) for old, new in zip(weights, model.parameters(), strict=True))


def test_f28_source_accuracy_falls_by_forward_passes_alone_unless_still():
    digits = pytest.importorskip("sklearn.datasets").load_digits()
    inputs = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
    targets = torch.tensor(digits.target)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(1, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3),
                              nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(), nn.Linear(256, 10))
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for start in 3 * [*range(0, 1280, 64)]:
        optimizer.zero_grad()
        functional.cross_entropy(model(inputs[start:start + 64]), targets[start:start + 64]).backward()
        optimizer.step()

    def accuracy():
        model.eval()
        with torch.no_grad():
            return (model(inputs[1280:]).argmax(1) == targets[1280:]).double().mean().item()

    def passes():
        model.train()
        with torch.no_grad():
            for start in range(0, 1280, 64):
                model(inputs[start:start + 64] * 0.2 + 1)

    source = accuracy()
    assert source > 0.85
    with still(model):
        passes()
    assert accuracy() == source
    passes()
    assert accuracy() < source - 0.3
