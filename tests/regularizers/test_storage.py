"""Fewer bits, and other memory, for what a penalty remembers: how far it is off, what stays exact, what it takes."""

import io
import logging
import math

import pytest
import torch
from torch import nn

from forgetting.curvature import Diagonal
from forgetting.regularizers import EWC, L2SP
from forgetting.regularizers.storage import STORAGES
from tests.regularizers.small import Weights, importances, move

ERROR = {"bfloat16": 2.0**-8, "int8": math.expm1(math.log(2**20 + 1) / 255 / 2) * 1.001}
SHORT = list(ERROR)


def start(storage, *, dtype=torch.float32, strength=2.0, **settings):
    """A model, EWC that was consolidated on it, and the matrix."""
    model = Weights(a=torch.zeros(40, 30, dtype=dtype), b=torch.zeros(7, dtype=dtype), c=torch.zeros((), dtype=dtype))
    move(model, 1, 0.1)
    matrix = importances(model, 2)
    ewc = EWC(strength, storage=storage, **settings)
    ewc.consolidate(model, curvature=matrix)
    return model, ewc, matrix


def nbytes(state):
    """All tensors of a state."""
    if isinstance(state, dict):
        return sum(nbytes(entry) for entry in state.values())
    return state.nbytes if isinstance(state, torch.Tensor) else 0


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("tasks", [1, 3])
def test_exactly_0_at_the_anchor(storage, dtype, tasks):
    model, ewc, _ = start(storage, dtype=dtype, strength=1e9)
    for task in range(1, tasks):
        move(model, task)
        ewc.consolidate(model, curvature=importances(model, task))
    penalty = ewc.penalty(model)
    penalty.backward()
    assert penalty.item() == 0
    assert all(weight.grad.eq(0).all() for weight in model.parameters())
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    with ewc.attach(model, optimizer := torch.optim.SGD(model.parameters(), lr=1.0), mode="proximal"):
        model.zero_grad()
        optimizer.step()
    assert all(torch.equal(weight, before[name]) for name, weight in model.named_parameters())


@pytest.mark.parametrize("storage", SHORT)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("distance", [1e-3, 1.0])
def test_the_pull_is_off_by_what_the_docstring_says(storage, dtype, distance):
    model, ewc, matrix = start(storage, dtype=dtype)
    anchor = {name: weight.detach().double().clone() for name, weight in model.named_parameters()}
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(distance * torch.randn(weight.shape, generator=generator, dtype=torch.float64))
    pull = ewc.pull(model)
    for name, weight in model.named_parameters():
        f, delta = matrix[name].double(), weight.detach().double() - anchor[name]
        cell = 3.2e-5 * anchor[name].abs().max()
        knee = 2.0**-20 * f.max() if storage == "int8" else 0.0
        exact = 2.0 * f * delta
        bound = 2.0 * ((ERROR[storage] * (f + knee)) * delta.abs() + (1 + ERROR[storage]) * f * cell)
        assert ((pull[name].double() - exact).abs() <= bound * (1 + 1e-5)).all()
        assert (pull[name][f == 0] == 0).all()
    value = ewc.penalty(model)
    value.backward()
    full = EWC(2.0)
    full.load_state_dict(ewc.state_dict())  # what is stored, unpacked: another path to the same numbers
    for name, weight in model.named_parameters():
        torch.testing.assert_close(weight.grad.float(), pull[name].float())
        torch.testing.assert_close(full.pull(model)[name].float(), pull[name].float(), rtol=1e-3,
                                   atol=float(4 * cell * matrix[name].max()))


@pytest.mark.parametrize("storage", SHORT)
def test_many_small_additions_are_not_lost(storage):
    model = Weights(a=torch.zeros(4096))
    ewc = EWC(1.0, storage=storage)
    exact = torch.zeros(4096)
    generator = torch.Generator().manual_seed(0)
    tasks = 300 if storage == "bfloat16" else 50
    for _ in range(tasks):
        importance = 0.5 + torch.rand(4096, generator=generator)
        exact += importance
        ewc.consolidate(model, curvature=Diagonal({"a": importance}))
    error = ewc.consolidated.curvature["a"] / exact - 1
    assert abs(error.mean()) < 4e-3
    assert error.square().mean().sqrt() < {"bfloat16": 0.04, "int8": 0.12}[storage]
    assert ewc.consolidated.anchor["a"].eq(0).all()


@pytest.mark.parametrize("storage", SHORT)
def test_a_state_is_small_in_memory_and_in_a_file_and_the_same_again(storage):
    model = Weights(a=torch.randn(512, 300))
    sizes = {}
    for kind in ("float32", storage):
        ewc = EWC(2.0, storage=kind)
        predicted = sum(ewc.memory(model).values())
        ewc.consolidate(model, curvature=importances(model, 2))
        file = io.BytesIO()
        torch.save(ewc.state_dict(), file)
        sizes[kind] = file.tell()
        taken = sum(ewc.memory(model).values())
        assert nbytes(ewc.state_dict()) <= taken + 200 <= predicted + 400
        assert sizes[kind] < predicted + 8000
    assert sizes["float32"] / sizes[storage] > {"bfloat16": 1.9, "int8": 2.5}[storage]
    file.seek(0)
    again = EWC(2.0, storage=storage)
    again.load_state_dict(torch.load(file, weights_only=True))
    move(model, 5)
    assert torch.equal(again.penalty(model), ewc.penalty(model))
    assert again.memory(model) == ewc.memory(model)
    for either in (again, ewc):
        either.consolidate(model, curvature=importances(model, 6))
    move(model, 7)
    assert torch.equal(again.penalty(model), ewc.penalty(model))


@pytest.mark.parametrize("first", STORAGES)
@pytest.mark.parametrize("second", STORAGES)
def test_a_state_is_kept_in_the_bits_of_who_loads_it(first, second):
    model, ewc, _ = start(first)
    other = EWC(2.0, storage=second)
    other.load_state_dict(ewc.state_dict())
    move(model, 3)
    assert other.penalty(model).item() == pytest.approx(ewc.penalty(model).item(), rel=0.06)
    fresh = EWC(2.0, storage=second)
    fresh.consolidate(model, curvature=importances(model, 2))
    assert other.memory(model) == pytest.approx(fresh.memory(model))


def test_weights_in_16_bits_are_anchored_as_they_are():
    for dtype in (torch.bfloat16, torch.float16):
        model, ewc, _ = start("int8", dtype=dtype)
        for name, weight in model.named_parameters():
            assert torch.equal(ewc.consolidated.anchor[name], weight.detach().float())
        assert ewc.memory(model)["anchor"] == 2 * (40 * 30 + 7 + 1)


@pytest.mark.parametrize("method", [EWC, L2SP])
def test_what_will_be_taken_is_said_before_it_is(method, caplog):
    model = Weights(a=torch.zeros(1000, 1000))
    regularizer = method(1.0, storage="int8")
    assert regularizer.memory(model) == {"anchor": 2_031_252, "rests": 0,
                                         "importance": 1_031_252 if method is EWC else 0}
    with caplog.at_level(logging.INFO, "forgetting"):
        regularizer.consolidate(model, **({"curvature": importances(model, 1)} if method is EWC else {}))
    said = f"{method.__name__} keeps {'3.1' if method is EWC else '2.0'} MB where the model is: anchor 2.0"
    assert caplog.messages[0].startswith(said)
    separate = EWC(1.0, anchors="separate")
    assert sum(separate.memory(model).values()) == 16_000_000


def test_offload_keeps_all_of_it_in_the_memory_of_the_cpu():
    model, plain, matrix = start("float32")
    for settings in ({}, {"storage": "int8"}, {"anchors": "separate"}):
        ewc = EWC(2.0, offload=True, **settings)
        ewc.consolidate(model, curvature=matrix)
        assert {value.device.type for value in ewc.consolidated.curvature.values()} == {"cpu"}
    ewc = EWC(2.0, offload=True)
    ewc.consolidate(model, curvature=matrix)
    move(model, 3)
    assert torch.equal(ewc.penalty(model), plain.penalty(model))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("offload", [False, True])
def test_a_gpu_finds_what_the_cpu_does(storage, offload):
    model = Weights(a=torch.randn(3000, 4000), b=torch.randn(7), c=torch.randn(()))
    ewc = EWC(2.0, storage=storage, offload=offload)
    ewc.consolidate(model, curvature=importances(model, 2))
    move(model, 3)
    value, pull = ewc.penalty(model).item(), ewc.pull(model)
    model.to("cuda")
    penalty = ewc.penalty(model)
    penalty.backward()
    assert penalty.item() == pytest.approx(value, rel=1e-5)
    for name, weight in model.named_parameters():
        torch.testing.assert_close(weight.grad.cpu(), pull[name], rtol=1e-5, atol=1e-6)
    assert ewc.consolidated.anchor["a"].device.type == ("cpu" if offload else "cuda")


def test_what_cannot_be_is_refused_by_name():
    with pytest.raises(ValueError, match="storage='int4' does not exist: choose one of float32, bfloat16, int8"):
        EWC(1.0, storage="int4")
    with pytest.raises(ValueError, match="storage='int8' needs anchors='latest'.*merged by differences"):
        EWC(1.0, storage="int8", anchors="separate")
    model = nn.Sequential(nn.Linear(4, 3))
    data = [(torch.randn(6, 4), torch.arange(6) % 3)]
    for settings, words in (({"storage": "int8"}, "compresses diagonals; a Kronecker needs storage='float32'"),
                            ({"offload": True}, "streams diagonals; a Kronecker needs offload=False")):
        ewc = EWC(1.0, curvature="kronecker", **settings)
        with pytest.raises(TypeError, match=words):
            ewc.consolidate(model, data)
        assert ewc.consolidated is None
