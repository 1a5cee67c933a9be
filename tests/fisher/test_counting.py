"""Always a mean over exactly the examples that were asked for, however they were cut into batches."""

import importlib.util

import pytest
import torch
from torch import nn

from forgetting import fisher
from tests import oracles
from tests.cases import CASES, cut
from tests.fisher.estimates import assert_close, estimate
from tests.oracles import Meaning


@pytest.fixture
def mlp():
    return CASES["mlp"].build(torch.float64)


@pytest.mark.parametrize("labels", ["exact", "sampled", "empirical"])
@pytest.mark.parametrize("size", [1, 2, 4, 9])
@pytest.mark.parametrize("examples", [1, 2, 3, 4, 5, 8, 9])
def test_examples_counts_exactly(mlp, labels, size, examples):
    model, batch = mlp
    stopped = fisher.diagonal(model, cut(batch, size), labels=labels, examples=examples)
    assert stopped.examples == examples
    assert_close(stopped, fisher.diagonal(model, [cut(batch, examples)[0]], labels=labels))


def test_no_more_batches_are_drawn_than_needed(mlp):
    model, batch = mlp
    drawn = []

    def loader():
        for part in cut(batch, 2):
            drawn.append(part)
            yield part

    assert fisher.diagonal(model, loader(), examples=4).examples == 4
    assert len(drawn) == 2


def test_more_than_there_are_counts_what_there_is(mlp):
    model, batch = mlp
    assert fisher.diagonal(model, cut(batch, 4), examples=100).examples == 9


def test_ragged_batches_and_empty_ones(mlp):
    model, (inputs, targets) = mlp
    borders = [(0, 4), (4, 4), (4, 5), (5, 9)]
    ragged = [(inputs[a:b], targets[a:b]) for a, b in borders]
    found = fisher.diagonal(model, ragged)
    assert found.examples == 9
    assert_close(found, fisher.diagonal(model, [(inputs, targets)]))


@pytest.mark.parametrize("labels", ["exact", "empirical"])
def test_the_order_of_examples_does_not_matter(mlp, labels):
    model, (inputs, targets) = mlp
    order = torch.randperm(9, generator=torch.Generator().manual_seed(1))
    found = fisher.diagonal(model, cut((inputs[order], targets[order]), 4), labels=labels)
    assert_close(found, fisher.diagonal(model, cut((inputs, targets), 7), labels=labels))


@pytest.mark.parametrize("labels", ["exact", "sampled"])
def test_only_empirical_estimates_read_the_labels(mlp, labels):
    model, (inputs, targets) = mlp
    found = fisher.diagonal(model, [(inputs, targets)], labels=labels)
    again = fisher.diagonal(model, [(inputs, (targets + 1) % 3)], labels=labels)
    other = fisher.diagonal(model, [(inputs, (targets + 1) % 3)], labels="empirical")
    assert all(torch.equal(found[name], again[name]) for name in found)
    assert not torch.allclose(found["0.weight"], other["0.weight"], rtol=1e-2)


def test_sampled_is_repeatable_and_its_generator_is_the_callers(mlp):
    model, batch = mlp
    torch.manual_seed(5)
    first = fisher.diagonal(model, cut(batch, 4), labels="sampled")
    torch.manual_seed(6)
    second = fisher.diagonal(model, cut(batch, 4), labels="sampled")
    other = fisher.diagonal(model, cut(batch, 4), labels="sampled", generator=torch.Generator().manual_seed(3))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.allclose(first["0.weight"], other["0.weight"], rtol=1e-3)


def test_sampled_is_unbiased(mlp):
    """The mean over many draws comes as near to the exact Fisher as its own standard error says."""
    model, batch = mlp
    exact = fisher.diagonal(model, [batch])
    generator = torch.Generator().manual_seed(0)
    traces = torch.tensor([fisher.diagonal(model, [batch], labels="sampled", generator=generator).trace()
                           for _ in range(200)])
    assert abs(float(traces.mean()) - exact.trace()) < 3 * float(traces.std()) / 200**0.5
    assert float(traces.std()) > 0


def test_memory_changes_nothing():
    for name in ("merged_example_major", "class_token", "conv"):
        small = estimate(CASES[name], "exact", 7, torch.float64, memory=1)
        assert_close(small, estimate(CASES[name], "exact", 7, torch.float64))


@pytest.mark.parametrize("name", ["mlp", "positions", "gpt"])
def test_tolerance_only_ever_drops(name):
    """0 ≤ F − F̂ elementwise; a small tolerance drops little of the trace, none drops nothing."""
    case = CASES[name]
    pytest.importorskip(case.needs or "torch")
    exact = estimate(case, "exact", None, torch.float64)
    assert_close(estimate(case, "exact", None, torch.float64, tolerance=1e-15), exact, 1e-6)
    dropped = estimate(case, "exact", None, torch.float64, tolerance=0.6)
    assert all((exact[key] - dropped[key] >= -1e-12 * exact.largest()).all() for key in exact)
    assert dropped.trace() < exact.trace()


def test_a_named_frozen_parameter_is_estimated_and_stays_frozen():
    model, batch = CASES["frozen_trunk"].build(torch.float64)
    found = fisher.diagonal(model, cut(batch, 4), parameters="0.0.*")
    assert list(found) == ["0.0.weight", "0.0.bias"]
    assert not model[0][0].weight.requires_grad
    model.requires_grad_(True)
    assert_close(found, {name: value for name, value in
                         oracles.fisher(model, cut(batch, 1), meaning=Meaning()).items() if name in found})


def test_routes_name_every_parameter():
    class Uses(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.norm, self.head = nn.Embedding(5, 4), nn.LayerNorm(4), nn.Linear(4, 3)
            self.convolution, self.batch_norm = nn.Conv1d(4, 4, 1), nn.BatchNorm1d(4)
            self.group_norm = nn.GroupNorm(2, 4)
            self.scale, self.idle = nn.Parameter(torch.ones(4)), nn.Parameter(torch.ones(2))

        def forward(self, x):
            x = self.norm(self.embedding(x)) * self.scale
            x = self.group_norm(self.batch_norm(self.convolution(x.transpose(1, 2)))).tanh().mean(2)
            return self.head(x)

    data = [(torch.randint(5, (4, 3)), torch.tensor([0, 1, 2, 0]))]
    routes = fisher.diagonal(Uses(), data).routes
    kinds = {"embedding": "embedding", "norm": "layer_norm", "convolution": "conv", "batch_norm": "batch_norm",
             "group_norm": "group_norm", "head": "linear", "scale": "mul", "idle": "unused"}
    assert routes == {name: kinds[name.split(".")[0]] for name, _ in Uses().named_parameters()}
    assert fisher.diagonal(Uses(), data, labels="batched").routes["idle"] == "unused"


def test_closed_forms_serve_the_models_they_are_for():
    """A route that falls to the fallback by accident is right and slow: nothing else would notice."""
    linear, image = {"linear"}, {"conv", "batch_norm", "linear"}
    expected = {"mlp": linear, "conv_grouped": {"conv", "linear"}, "conv_transposed": {"conv", "linear"},
                "residual_in_place": image, "embedding": {"embedding", "linear"},
                "layer_norm": {"layer_norm", "linear"}, "group_norm": {"group_norm", "conv", "linear"},
                "rms_norm": {"rms_norm", "linear"}, "prelu": {"local", "linear"}, "bilinear": {"local"},
                "merged_position_major": {"linear", "layer_norm"}, "windows": {"linear", "add"},
                "attention": linear, "attention_cross": {"linear", "repeat"}, "attention_by_hand":
                {"matmul", "add", "mul", "linear"}, "encoder_layer": {"linear", "layer_norm"}, "shared_layer": linear,
                "position_embedding": {"add", "linear"}, "class_token": {"expand", "add", "mul", "linear"},
                "layer_scale": {"mul", "linear"}, "tied_weights": {"embedding+linear", "linear"}, "einsum": {"local"},
                "weight_norm": {"linear", "linear (vjp)"}, "transposed_by_hand": {"matmul", "addmm"},
                "resnet": image, "efficientnet": image, "bert": {"embedding", "add", "layer_norm", "linear"},
                "bert_sdpa": {"embedding", "add", "layer_norm", "linear"},
                "gpt": {"addmm", "add", "embedding+linear", "layer_norm"},
                "gpt_sdpa": {"addmm", "add", "embedding+linear", "layer_norm"},
                "vit": {"expand", "add", "mul", "conv", "layer_norm", "linear"}}
    for name, routes in expected.items():
        if CASES[name].needs is None or importlib.util.find_spec(CASES[name].needs):
            assert set(estimate(CASES[name], "empirical", 7, torch.float32).routes.values()) == routes, name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_gradients_are_squared_in_float32(dtype):
    """Squares of small half-precision gradients underflow; the sums are float32 and near the float64 value."""
    model, (inputs, targets) = CASES["mlp"].build(torch.float64)
    truth = fisher.diagonal(model, [(inputs, targets)], labels="empirical")
    found = fisher.diagonal(model.to(dtype), [(inputs.to(dtype), targets)], labels="empirical")
    assert {value.dtype for value in found.values()} == {torch.float32}
    assert_close(found, truth, 0.05)


@pytest.mark.parametrize("labels", ["exact", "sampled", "empirical", "batched"])
@pytest.mark.parametrize("ignore_index", [0, 1, 2])
def test_an_ignored_number_is_one_of_all_columns(labels, ignore_index):
    """A label whose place among the task's columns happens to be ``ignore_index`` counts like any other."""
    model, inputs = nn.Linear(4, 6), torch.randn(8, 4)
    targets = torch.tensor([3, 5, 3, 5, 5, 3, 3, 5])

    def found(index, truth):
        return fisher.diagonal(model, [(inputs, truth)], labels=labels, outputs=[3, 5],
                               likelihood=fisher.Categorical(ignore_index=index))

    assert_close(found(ignore_index, targets), found(-100, targets), 1e-6)
    ignored = targets.clone()
    ignored[:3] = ignore_index
    marked = targets.clone()
    marked[:3] = -100
    assert_close(found(ignore_index, ignored), found(-100, marked), 1e-6)
    assert found(ignore_index, ignored)["weight"].sum() != found(ignore_index, targets)["weight"].sum()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
def test_whole_numbers_of_any_width_are_labels(dtype):
    model, inputs, targets = nn.Linear(4, 3), torch.randn(6, 4), torch.tensor([0, 1, 2, 2, 1, 0])
    narrow = fisher.diagonal(model, [(inputs, targets.to(dtype))], labels="empirical")
    assert_close(narrow, fisher.diagonal(model, [(inputs, targets)], labels="empirical"), 1e-6)
