"""The path integral: the task's own gradient along the way that was really gone, whatever else acts at a step."""

import copy
import gc
import weakref

import pytest
import torch
from torch import nn

from forgetting.curvature import Diagonal
from forgetting.regularizers import EWC, SI, RWalk
from forgetting.regularizers.blocks import CACHE_BLOCK
from forgetting.regularizers.stride import accumulate
from tests.regularizers.small import Weights
from tests.regularizers.walking import close, held, integral, network, task_loss, walk, weights

PATHS = pytest.mark.parametrize("kind", [SI, lambda strength: RWalk(strength, interval=1000)], ids=["SI", "RWalk"])
OPTIMIZERS = {
    "sgd": lambda weights: torch.optim.SGD(weights, lr=0.05),
    "momentum": lambda weights: torch.optim.SGD(weights, lr=0.02, momentum=0.9, weight_decay=0.1),
    "adamw": lambda weights: torch.optim.AdamW(weights, lr=0.01),
    "fused": lambda weights: torch.optim.AdamW(weights, lr=0.01, fused=True),
}


@PATHS
@pytest.mark.parametrize("mode", ["loss", "gradient", "proximal"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_f4_the_penalty_is_no_part_of_the_path(kind, mode, optimizer):
    model, regularizer = held(kind)
    expected = walk(model, regularizer, OPTIMIZERS[optimizer](model.parameters()), mode=mode)
    close(integral(regularizer), expected)


@pytest.mark.parametrize("mode", ["loss", "gradient"])
@pytest.mark.parametrize("accumulate", [4, 8])
def test_accumulation_changes_nothing(mode, accumulate):
    model, si = held(SI)
    expected = walk(model, si, OPTIMIZERS["sgd"](model.parameters()), mode=mode, accumulate=accumulate)
    close(integral(si), expected)


@pytest.mark.parametrize("mode", ["loss", "gradient", "proximal"])
@pytest.mark.parametrize("fused", [False, True])
def test_f19_a_gradient_scaler_changes_nothing(mode, fused):
    model, si = held(SI, dtype=torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12, growth_interval=2)
    expected = walk(model, si, optimizer, mode=mode, scaler=scaler)
    assert scaler.get_scale() > 2.0**12
    close(integral(si), expected, rtol=1e-4)


@PATHS
@pytest.mark.parametrize("fused", [False, True])
def test_f19_a_skipped_step_is_not_counted(kind, fused):
    model, regularizer = held(kind, dtype=torch.float32)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)
    expected = walk(model, regularizer, optimizer, scaler=scaler, steps=2)
    before = weights(model)
    with regularizer.attach(model, optimizer):
        scaler.scale((task_loss(model, 9) + regularizer.penalty(model)) * float("inf")).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
    assert all(torch.equal(before[name], weight) for name, weight in weights(model).items())
    close(integral(regularizer), expected, rtol=1e-4)
    more = walk(model, regularizer, optimizer, scaler=scaler, first=2, steps=1)
    close(integral(regularizer), {name: expected[name] + more[name] for name in more}, rtol=1e-4)


@PATHS
def test_f2_nothing_shares_memory_with_the_weights(kind):
    model, regularizer = network(), kind(1.0)
    start = weights(model)
    walk(model, regularizer, OPTIMIZERS["sgd"](model.parameters()))
    for name, weight in model.named_parameters():
        path = regularizer._path
        assert torch.equal(path["start"][name], start[name])
        assert not torch.equal(path["start"][name], weight)
        assert integral(regularizer)[name].abs().sum() > 0
    state = regularizer.state_dict()["path"]["integral"]
    kept = {name: value.clone() for name, value in state.items()}
    walk(model, regularizer, OPTIMIZERS["sgd"](model.parameters()))
    assert all(torch.equal(state[name], kept[name]) for name in kept)


def test_small_steps_add_up_to_what_the_loss_fell():
    model, si = network(), SI(1.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    first = task_loss(model, 0).item()
    with si.attach(model, optimizer):
        for _ in range(300):
            optimizer.zero_grad()
            task_loss(model, 0).backward()
            optimizer.step()
    fell = first - task_loss(model, 0).item()
    assert fell > 0.1
    assert sum(value.sum().item() for value in integral(si).values()) == pytest.approx(fell, rel=0.01)


def test_a_penalty_that_is_only_looked_at_is_not_taken_out():
    model, si = held(SI)
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    before = weights(model)
    with si.attach(model, optimizer):
        for look in (lambda: si.penalty(model), lambda: si.penalty(model).item()):
            task_loss(model, 0).backward()
            look()
        gradients = {name: weight.grad.clone() for name, weight in model.named_parameters()}
        optimizer.step()
    close(integral(si), {name: -gradients[name] * (weight - before[name]) for name, weight in weights(model).items()})


def test_a_penalty_counts_at_the_step_that_it_took_part_in():
    model, si = held(SI)
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    expected = walk(model, si, optimizer, mode="loss", steps=2)
    with si.attach(model, optimizer):
        before = weights(model)
        task_loss(model, 5).backward()
        gradients = {name: weight.grad.clone() for name, weight in model.named_parameters()}
        optimizer.step()
    for name, weight in weights(model).items():
        expected[name] -= gradients[name] * (weight - before[name])
    close(integral(si), expected)


def test_another_pull_on_the_gradient_comes_after_the_path():
    model, si = held(SI)
    ewc, optimizer = EWC(3.0), OPTIMIZERS["sgd"](model.parameters())
    ewc.consolidate(model, curvature=Diagonal({name: torch.ones_like(w) for name, w in model.named_parameters()}))
    with torch.no_grad():
        model[0].weight += 1.0
    with ewc.attach(model, optimizer, mode="gradient"):
        expected = walk(model, si, optimizer, mode="gradient")
    close(integral(si), expected)


def test_the_path_goes_on_after_a_pause_and_begins_anew_after_a_task():
    model, si = network(), SI(1.0)
    optimizer = OPTIMIZERS["momentum"](model.parameters())
    once = walk(model, si, optimizer, steps=2)
    twice = walk(model, si, optimizer, first=2, steps=2)
    close(integral(si), {name: once[name] + twice[name] for name in once})
    si.consolidate(model)
    assert integral(si) == {}
    expected = walk(model, si, optimizer, first=4, steps=1)
    close(integral(si), expected)


def test_only_what_moves_has_a_path_and_it_begins_where_it_began_to_move():
    model, si = Weights(free=[1.0], silent=[1.0], frozen=[1.0], foreign=[1.0]), SI(1.0)
    model.frozen.requires_grad_(False)
    optimizer = torch.optim.SGD([model.free, model.silent, model.frozen], lr=0.25)
    with si.attach(model, optimizer):
        model.free.grad = torch.ones(1)
        optimizer.step()
        assert set(integral(si)) == {"free"}
        model.frozen.requires_grad_(True)
        model.frozen.data.fill_(5.0)
        model.frozen.grad = torch.ones(1)
        optimizer.step()
    assert si.state_dict()["path"]["start"] == {"free": torch.tensor([1.0]), "frozen": torch.tensor([5.0])}
    assert integral(si) == {"free": torch.tensor([0.5]), "frozen": torch.tensor([0.25])}
    model.free.requires_grad_(False)
    si.consolidate(model)
    assert si.consolidated.curvature["free"].item() == pytest.approx(0.5 / (0.5**2 + 1e-3))
    assert si.consolidated.curvature["silent"].item() == 0
    assert si.consolidated.curvature["foreign"].item() == 0


def test_parameters_says_what_is_listened_to():
    model, si = network(), SI(1.0, parameters="0.*")
    walk(model, si, OPTIMIZERS["sgd"](model.parameters()))
    assert set(integral(si)) == {"0.weight", "0.bias"}
    si.consolidate(model)
    assert si.consolidated.curvature.names() == ("0.weight", "0.bias")


def test_a_layer_that_was_replaced_is_an_error_that_says_what_to_do():
    model, si = network(), SI(1.0)
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    walk(model, si, optimizer)
    model[2] = nn.Linear(6, 5).double()
    with pytest.raises(ValueError, match="'2.weight' with the shape.*leave it out with parameters="):
        si.consolidate(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(torch.ones(1, 4, dtype=torch.float64)).sum().backward()
    with si.attach(model, optimizer), pytest.raises(ValueError, match="'2.weight'.*before a layer is replaced"):
        optimizer.step()
    model[2] = nn.Identity()
    with pytest.raises(ValueError, match="does not have"):
        si.consolidate(model)
    si.parameters = "0.*"
    si.consolidate(model)
    assert si.consolidated.curvature.largest() > 0


@pytest.mark.parametrize("mode", ["loss", "gradient", "proximal"])
def test_a_closure_cannot_be_listened_to(mode):
    model, si = network(), SI(1.0)
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    with si.attach(model, optimizer, mode=mode), pytest.raises(RuntimeError, match="closure"):
        optimizer.step(lambda: task_loss(model, 0))


def test_an_optimizer_of_another_model_is_refused():
    model, si = network(), SI(1.0)
    with pytest.raises(ValueError, match="there would be no path"):
        si.attach(model, torch.optim.SGD(network().parameters(), lr=0.1))
    with pytest.raises(ValueError, match="maximize"):
        si.attach(model, torch.optim.SGD(model.parameters(), lr=0.1, maximize=True))


def test_few_bits_and_gradients_with_gaps_are_heard_in_full():
    model = nn.Sequential(nn.Embedding(5, 3, sparse=True), nn.Linear(3, 2).to(torch.bfloat16))
    si, optimizer = SI(1.0), torch.optim.SGD(model.parameters(), lr=0.125)
    before = weights(model)
    with si.attach(model, optimizer):
        model[1](model[0](torch.tensor([1, 3])).to(torch.bfloat16)).square().sum().backward()
        gradients = {name: weight.grad.to_dense().float() for name, weight in model.named_parameters()}
        optimizer.step()
    moved = {name: weight.float() - before[name].float() for name, weight in weights(model).items()}
    close(integral(si), {name: -gradients[name] * moved[name] for name in moved}, rtol=1e-6)
    assert all(value.dtype == torch.float32 for value in integral(si).values())


def test_neither_model_nor_optimizer_is_kept_alive():
    model, si = network(), SI(1.0)
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    handle = si.attach(model, optimizer)
    watched = [weakref.ref(model), weakref.ref(optimizer)]
    del model, optimizer, handle
    gc.collect()
    assert [reference() for reference in watched] == [None, None]


def test_a_copy_in_mid_task_goes_its_own_way():
    model, si = network(), SI(1.0)
    walk(model, si, OPTIMIZERS["sgd"](model.parameters()))
    twin = copy.deepcopy(si)
    kept = integral(twin)
    walk(model, si, OPTIMIZERS["sgd"](model.parameters()))
    close(integral(twin), kept, rtol=0)


def test_memory_says_what_listening_takes():
    model, si, rwalk = network(torch.float32), SI(1.0), RWalk(1.0)
    count = sum(weight.numel() for weight in model.parameters())
    assert si.memory(model) == {"anchor": 4 * count, "importance": 4 * count, "rests": 0, "path": 8 * count}
    assert rwalk.memory(model)["path"] == 16 * count
    walk(model, si, OPTIMIZERS["sgd"](model.parameters()))
    si.consolidate(model)
    assert si.memory(model) == {"anchor": 4 * count, "importance": 4 * count, "rests": 0, "path": 8 * count}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("laid_out", [lambda tensor: tensor, lambda tensor: tensor.t(), lambda tensor: tensor[:, 1:]],
                         ids=["rows", "columns", "with gaps"])
def test_long_weights_are_added_like_short_ones(dtype, squared, laid_out):
    generator = torch.Generator().manual_seed(0)
    total, square, gradient, start, end = (
        laid_out(torch.randn(701, CACHE_BLOCK // 300, generator=generator, dtype=torch.float64)) for _ in range(5))
    expected, expected_square = total + gradient * (start - end), square + gradient**2
    total, square, gradient, start, end = (tensor.to(dtype) for tensor in (total, square, gradient, start, end))
    assert total.numel() > 2 * CACHE_BLOCK
    accumulate([total], [square] if squared else None, [gradient], [start], [end])
    error = 1e-14 if dtype == torch.float64 else 1e-5
    torch.testing.assert_close(total.double(), expected, rtol=error, atol=error)
    if squared:
        torch.testing.assert_close(square.double(), expected_square, rtol=error, atol=error)
