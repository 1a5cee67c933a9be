"""What stands around a model: compilers, wrappers, precisions, memory formats, batches of odd sizes and strides."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from forgetting import fisher
from tests.cases import CASES, cut
from tests.fisher.estimates import FLOAT64, assert_close, reference


def same(found, truth, tolerance=1e-10):
    for name, value in truth.items():
        assert float((found[name].double() - value.double()).norm()) <= tolerance * float(value.norm()) + 1e-30, name


@pytest.fixture
def small():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Sequential(nn.Linear(4, 6), nn.ReLU(inplace=True)), nn.Linear(6, 3)).double()
    return model, [(torch.randn(5, 4).double(), torch.randint(3, (5,))) for _ in range(3)]


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("part", ["inside", "whole"])
def test_compiled_models(small, backend, part):
    model, data = small
    truth = fisher.diagonal(model, data)
    compiled = copy.deepcopy(model)
    if part == "inside":
        compiled[0] = torch.compile(compiled[0], backend=backend)
    else:
        compiled = torch.compile(compiled, backend=backend)
    compiled(data[0][0])
    found = fisher.diagonal(compiled, data)
    assert set(found.routes.values()) == {"linear"}
    same(found, truth)


def test_data_parallel_keeps_the_models_own_names(small):
    model, data = small
    same(fisher.diagonal(nn.DataParallel(model), data), fisher.diagonal(model, data))
    assert set(fisher.diagonal(nn.DataParallel(model), data)) == set(dict(model.named_parameters()))


def test_autocast(small):
    model, data = small
    model.float()
    data = [(inputs.float(), targets) for inputs, targets in data]

    def forward(model, batch):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return model(batch[0]), batch[1]

    found = fisher.diagonal(model, data, forward=forward)
    assert set(found.routes.values()) == {"linear"}
    assert all(value.dtype == torch.float32 for value in found.values())
    same(found, fisher.diagonal(model, data), 3e-2)


@pytest.mark.parametrize("name", ["conv", "residual_in_place", "conv_grouped", "batch_norm", "resnet", "efficientnet"])
def test_channels_last(name):
    case = CASES[name]
    if case.needs is not None:
        pytest.importorskip(case.needs)
    model, (inputs, targets) = case.build(torch.float64)
    model = model.to(memory_format=torch.channels_last)
    batch = inputs.to(memory_format=torch.channels_last), targets
    assert_close(fisher.diagonal(model, [batch], labels="empirical"), reference(name, "empirical", torch.float64),
                 FLOAT64)


def test_strided_inputs(small):
    model, data = small
    strided = [(torch.stack([inputs, -inputs], -1)[..., 0], targets) for inputs, targets in data]
    assert not strided[0][0].is_contiguous()
    same(fisher.diagonal(model, strided), fisher.diagonal(model, data))


def test_empty_batches_are_left_out_and_ragged_ones_right(small):
    model, data = small
    inputs, targets = (torch.cat(parts) for parts in zip(*data, strict=True))
    ragged = [(inputs[:7], targets[:7]), (inputs[:0], targets[:0]), (inputs[7:8], targets[7:8]),
              (inputs[8:], targets[8:])]
    found = fisher.diagonal(model, ragged)
    assert found.examples == 15
    same(found, fisher.diagonal(model, data))


def test_another_length_of_sequences_needs_no_new_probe():
    """Ragged sequences follow the first batch's plan; the values stay the oracle's."""
    torch.manual_seed(0)
    model, passes = nn.Sequential(nn.Embedding(7, 4), nn.LayerNorm(4), nn.Linear(4, 3)).double(), []
    model.register_forward_hook(lambda module, inputs, output: passes.append(output.shape[1]))
    data = [(torch.randint(7, (4, length)), torch.randint(3, (4, length))) for length in (5, 3, 6)]
    found = fisher.diagonal(model, data, labels="empirical", likelihood=fisher.Categorical())
    assert passes[-2:] == [3, 6]
    assert set(passes[:-2]) == {5}
    each = [fisher.diagonal(model, [batch], labels="empirical", likelihood=fisher.Categorical()) for batch in data]
    same(found, {name: sum(one[name] for one in each) / 3 for name in found})


class TurnsQuietly(nn.Module):
    """The same calls with the examples in another place, for longer sequences."""

    def __init__(self):
        super().__init__()
        self.inner, self.head = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x):
        long = x.shape[1] > 4
        return self.head(torch.tanh(self.inner(x.transpose(0, 1) if long else x)).mean(0 if long else 1))


class TurnsAtLength(nn.Module):
    """Another order of calls, and another place of the examples, for longer sequences."""

    def __init__(self):
        super().__init__()
        self.inner, self.head, self.scale = nn.Linear(4, 4), nn.Linear(4, 3), nn.Parameter(torch.randn(4))

    def forward(self, x):
        if x.shape[1] > 4:
            return self.head(torch.tanh(self.inner(x.transpose(0, 1) * self.scale)).mean(0))
        return self.head(torch.tanh(self.inner(x)).mean(1) * self.scale)


@pytest.mark.parametrize("kind", [TurnsAtLength, TurnsQuietly])
def test_a_way_that_depends_on_the_shape_is_looked_at_anew(kind):
    torch.manual_seed(0)
    model = kind().double()
    data = [(torch.randn(6, length, 4).double(), torch.randint(3, (6,))) for length in (3, 7, 2, 5)]
    found = fisher.diagonal(model, data, labels="empirical")
    alone = [fisher.diagonal(model, cut(batch, 1), labels="empirical") for batch in data]
    same(found, {name: sum(one[name] for one in alone) / 4 for name in found})


def test_inference_mode_is_refused_by_name(small):
    model, data = small
    with torch.inference_mode(), pytest.raises(RuntimeError, match=r"inference_mode.*torch\.no_grad"):
        fisher.diagonal(model, data)
    with torch.no_grad():
        same(fisher.diagonal(model, data), fisher.diagonal(model, data))


class Mixing(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.centre, self.head = nn.Linear(4, 4), Centre(), nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.centre(self.stem(x)))


class Centre(nn.Module):
    def forward(self, x):
        return x - x.mean(0)


def test_the_module_that_mixes_is_named():
    with pytest.raises(ValueError, match=r"the module 'centre' \(Centre\) mixes examples"):
        fisher.diagonal(Mixing(), [(torch.randn(5, 4), torch.randint(3, (5,)))])
