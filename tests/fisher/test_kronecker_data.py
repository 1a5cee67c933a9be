"""What an estimate of Kronecker factors may and may not depend on, which parameters have factors, and bad input."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset

from forgetting import fisher
from tests.cases import CASES, cut
from tests.fisher.estimates import LIKELIHOODS, require
from tests.networks import Mean, Tied

SAME = 1e-10


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def network(*layers, dtype=torch.float64):
    with torch.random.fork_rng():
        torch.manual_seed(2)
        return nn.Sequential(*layers).apply(lambda layer: getattr(layer, "reset_parameters", int)()).to(dtype).eval()


def cnn():
    return network(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.GroupNorm(2, 4),
                   nn.Conv2d(4, 4, 2, groups=2, bias=False), nn.Flatten(2), Mean(2), nn.Linear(4, 3))


def images(size=8, targets=None, count=8):
    targets = torch.arange(count) % 3 if targets is None else targets
    return list(zip(normal(count, 2, 4, 4).split(size), targets.split(size), strict=True))


def numbers(matrix):
    """Everything that a matrix says, by name."""
    found = {f"{block.weight} {key}": value for block in matrix.blocks for key, value in block.matrix.tensors().items()}
    return {**found, **matrix.rest}


def assert_same(one, other, tolerance=SAME):
    """As matrices: eigenvectors may change their sign."""
    generator = torch.Generator().manual_seed(0)
    assert one.names() == other.names()
    diagonal = one.diagonal()
    delta = {name: torch.randn(value.shape, dtype=torch.float64, generator=generator)
             for name, value in diagonal.items()}
    for name, value in one.product(delta).items():
        gap = float((value - other.product(delta)[name]).norm())
        assert gap <= tolerance * float(value.norm()), (name, gap / float(value.norm()))


@pytest.mark.parametrize("approximation", fisher.APPROXIMATIONS)
@pytest.mark.parametrize("sharing", fisher.SHARING)
@pytest.mark.parametrize("labels", ["exact", "signed", "sampled", "empirical"])
def test_the_batch_size_does_not_matter(approximation, sharing, labels):
    whole, *others = (
        fisher.kronecker(cnn(), images(size, count=40), approximation=approximation, sharing=sharing, labels=labels)
        for size in (40, 1, 7))
    assert whole.trace() > 0
    for other in others:
        assert_same(whole, other)
        assert (other.examples, other.labels) == (40, labels)


@pytest.mark.parametrize("labels", ["exact", "empirical"])
def test_examples_without_a_label_count_in_a_however_they_are_batched(labels):
    """An ignored example has an input: a batch of nothing else must not be left out of the mean."""
    targets = torch.tensor([0, 1, -100, -100, 2, -100, 1, 0])
    one, other = (fisher.kronecker(cnn(), images(size, targets=targets), likelihood=fisher.Categorical(), labels=labels)
                  for size in (8, 1))
    assert_same(one, other)


def test_a_tolerance_drops_directions_of_the_outputs_only():
    """A is that of all examples; F̂ is F less something positive semi-definite, of at most this share of the trace."""
    whole, less = (fisher.kronecker(cnn(), images(), tolerance=tolerance) for tolerance in (0.0, 0.2))
    for one, other in zip(whole.blocks, less.blocks, strict=True):
        torch.testing.assert_close(one.matrix.a, other.matrix.a)
        apart = torch.linalg.eigvalsh(one.matrix.g - other.matrix.g)
        assert float(apart.min()) >= -1e-12
        assert float(apart.max()) > 1e-6


def test_a_ragged_number_of_positions():
    model = network(nn.Linear(4, 5), nn.Tanh(), Mean(1), nn.Linear(5, 3))
    data = [(normal(2, t, 4, seed=t), torch.tensor([0, 1])) for t in (3, 6, 1)]
    found = fisher.kronecker(model, data, labels="empirical").blocks[0].matrix
    x = torch.cat([batch.flatten(0, 1) for batch, _ in data])
    torch.testing.assert_close(found.a[0, :4, :4], x.T @ x / 20)


@pytest.mark.parametrize("memory", [1, 2000])
@pytest.mark.parametrize("approximation", fisher.APPROXIMATIONS)
def test_tiles_change_nothing(memory, approximation):
    assert_same(fisher.kronecker(cnn(), images(), approximation=approximation),
                fisher.kronecker(cnn(), images(), approximation=approximation, memory=memory))


@pytest.mark.parametrize("name", CASES)
def test_ekfac_has_the_trace_of_the_diagonal_on_every_model(name):
    """Also where the parameters have no factors: they ride along as the same diagonal."""
    case = CASES[name]
    require(case)
    model, batch = case.build(torch.float64)
    given = {"likelihood": LIKELIHOODS[case.meaning.kind](case.meaning), "outputs": case.meaning.outputs,
             "forward": case.forward, "parameters": case.parameters, "labels": "sampled"}
    diagonal = fisher.diagonal(model, cut(batch, 4), **given)
    found = fisher.kronecker(model, cut(batch, 4), approximation="ekfac", **given)
    assert found.trace() == pytest.approx(diagonal.trace(), rel=1e-9)
    assert set(found.names()) == set(diagonal)
    assert found.routes.keys() == diagonal.routes.keys()
    shapes = {key: value.shape for key, value in diagonal.items()}
    assert {key: value.shape for key, value in found.diagonal().items()} == shapes
    for block in found.blocks:
        for parameter in block.names:
            assert found.routes[parameter] == f"{diagonal.routes[parameter]} (ekfac)"


def test_who_has_factors():
    def route(name):
        case = CASES[name]
        require(case)
        model, batch = case.build()
        return fisher.kronecker(
            model, cut(batch, None), likelihood=LIKELIHOODS[case.meaning.kind](case.meaning), labels="sampled",
            parameters=case.parameters).routes

    assert set(route("encoder_layer").values()) == {"linear (kfac)", "layer_norm"}
    assert set(route("attention").values()) == {"linear (kfac)"}
    assert route("conv_depthwise")["0.weight"] == "conv (kfac)"
    assert route("conv_transposed")["0.weight"] == "conv"
    assert route("embedding")["0.weight"] == "embedding (kfac)"


class Projections(nn.Module):
    """Three linear maps of inputs of their own, by the rows of one packed weight or by weights of their own."""

    def __init__(self, packed):
        super().__init__()
        self.packed = packed
        if packed:
            self.weight, self.bias = nn.Parameter(normal(6, 4)), nn.Parameter(normal(6, seed=1))
        else:
            self.maps = nn.ModuleList(nn.Linear(4, 2).double() for _ in range(3))
            for layer, weight, bias in zip(self.maps, normal(6, 4).chunk(3), normal(6, seed=1).chunk(3), strict=True):
                layer.weight.data, layer.bias.data = weight, bias
        self.head = network(nn.Linear(2, 3))

    def forward(self, x):
        inputs = x, torch.tanh(x), x.square()
        if self.packed:
            weights, biases = self.weight.chunk(3), self.bias.chunk(3)
            q, k, v = (nn.functional.linear(y, w, b) for y, w, b in zip(inputs, weights, biases, strict=True))
        else:
            q, k, v = (layer(y) for layer, y in zip(self.maps, inputs, strict=True))
        return self.head((torch.tanh(q) * k + v).mean(1))


@pytest.mark.parametrize("approximation", fisher.APPROXIMATIONS)
@pytest.mark.parametrize("sharing", fisher.SHARING)
def test_the_rows_of_a_packed_projection_have_factors_each(approximation, sharing):
    data = [(normal(12, 5, 4, seed=3), torch.arange(12) % 3)]
    packed, apart = (fisher.kronecker(Projections(kind), data, approximation=approximation, sharing=sharing)
                     for kind in (True, False))
    assert len(packed.blocks) == 2
    change = {"weight": normal(6, 4, seed=7), "bias": normal(6, seed=8)}
    pieces = {f"maps.{n}.{kind}": value for kind, whole in change.items() for n, value in enumerate(whole.chunk(3))}
    found, truth = packed.restricted(change).product(change), apart.restricted(pieces).product(pieces)
    for kind in change:
        torch.testing.assert_close(found[kind], torch.cat([truth[f"maps.{n}.{kind}"] for n in range(3)]))


def test_a_bias_without_its_weight_and_a_weight_without_its_bias():
    model = network(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    data = [(normal(6, 4), torch.arange(6) % 3)]
    whole = fisher.kronecker(model, data)
    for names in (("0.bias", "2.bias"), ("0.weight", "2.bias"), ("0.weight", "2.weight")):
        assert_same(fisher.kronecker(model, data, parameters=names), whole.restricted(names))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("approximation", fisher.APPROXIMATIONS)
def test_half_precision_models(dtype, approximation):
    model = network(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 3), dtype=dtype)
    inputs, targets = normal(32, 4).to(dtype), torch.arange(32) % 3
    found = fisher.kronecker(model, [(inputs, targets)], approximation=approximation)
    truth = fisher.kronecker(copy.deepcopy(model).double(), [(inputs.double(), targets)], approximation=approximation)
    assert all(value.dtype == torch.float32 for value in numbers(found).values())
    assert_same(found, truth, 0.1)


def test_the_second_pass_draws_the_labels_of_the_first():
    """Also where the loader shuffles: sampled labels belong to examples by their order."""
    inputs, targets = images()[0]
    model = cnn()

    def estimate(approximation, seed):
        with torch.random.fork_rng():
            torch.manual_seed(5)
            loader = DataLoader(TensorDataset(inputs, targets), batch_size=3, shuffle=True)
            return fisher.kronecker(model, loader, approximation=approximation, labels="sampled",
                                    generator=torch.Generator().manual_seed(seed))

    ekfac, another = estimate("ekfac", 1), estimate("ekfac", 2)
    assert ekfac.trace() != pytest.approx(another.trace(), rel=1e-3)
    for one, two in zip(estimate("kfac", 1).blocks, ekfac.blocks, strict=True):
        vectors, g = two.matrix.q_g, one.matrix.g
        seen = vectors.mT @ g @ vectors
        torch.testing.assert_close(seen, torch.diag_embed(seen.diagonal(dim1=1, dim2=2)), rtol=0, atol=1e-12)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        loader = DataLoader(TensorDataset(inputs, targets), batch_size=3, shuffle=True)
        diagonal = fisher.diagonal(model, loader, labels="sampled", generator=torch.Generator().manual_seed(1))
    assert ekfac.trace() == pytest.approx(diagonal.trace(), rel=1e-10)


@pytest.mark.parametrize("approximation", fisher.APPROXIMATIONS)
def test_the_model_is_left_as_found(approximation):
    model = cnn().train()
    model[2].eval()
    model[0].bias.requires_grad_(False)
    before, random = copy.deepcopy(model), torch.get_rng_state()
    found = fisher.kronecker(model, images(3), approximation=approximation)
    assert "0.bias" not in found.names()
    assert torch.equal(torch.get_rng_state(), random)
    assert [module.training for module in model.modules()] == [module.training for module in before.modules()]
    for (name, one), other in zip(model.named_parameters(), before.parameters(), strict=True):
        assert torch.equal(one, other), name
        assert one.requires_grad == other.requires_grad, name
        assert one.grad is None


def test_exactly_so_many_examples():
    found, expected = (fisher.kronecker(cnn(), data, approximation="ekfac", **options) for data, options in (
        (images(3), {"examples": 5}), ([tuple(part[:5] for part in images()[0])], {})))
    assert_same(found, expected)
    assert found.examples == 5


class Sometimes(nn.Module):
    """Three examples at a time go through an activation checkpoint, which no rule can look into."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 3).double()

    def forward(self, x):
        return checkpoint(self.inner, x, use_reentrant=False) if len(x) == 3 else self.inner(x)


def ragged():
    return [(normal(n, 4, seed=n), torch.arange(n) % 3) for n in (4, 3, 2)]


@pytest.mark.parametrize("approximation", fisher.APPROXIMATIONS)
def test_a_layer_that_goes_another_way_in_some_batches_has_no_factors(approximation):
    """The diagonal alone adds up over both ways."""
    model = nn.Sequential(Sometimes(), nn.Tanh(), network(nn.Linear(3, 3)))
    model[0].inner.weight.requires_grad_(False)
    found = fisher.kronecker(model, ragged(), approximation=approximation)
    diagonal = fisher.diagonal(model, ragged())
    assert not found.blocks
    assert found.routes == diagonal.routes
    for name, value in diagonal.items():
        torch.testing.assert_close(found.rest[name], value)


@pytest.mark.parametrize(("change", "words"), [
    ({"approximation": "full"}, "approximation='full' is not one of kfac, ekfac"),
    ({"sharing": "both"}, "sharing='both' is not one of expand, reduce"),
    ({"labels": "true"}, "labels='true' is not one of"),
    ({"labels": "batched"}, 'labels="batched" squares the gradient of a whole batch'),
    ({"examples": 0}, "examples= must be at least 1"),
    ({"data": iter(images()), "approximation": "ekfac"}, "the data is an iterator, used up after one pass"),
    ({"data": []}, "the data holds no examples"),
    ({"model": Sometimes(), "data": iter(ragged())}, "the data is an iterator.*another way in some batches"),
])
def test_what_cannot_be_says_so(change, words):
    with pytest.raises(ValueError, match=words):
        fisher.kronecker(**{"model": cnn(), "data": images(), **change})


def test_an_iterator_serves_one_pass():
    assert_same(fisher.kronecker(cnn(), iter(images())), fisher.kronecker(cnn(), images()))


def test_tied_weights_ride_along():
    model, batch = CASES["tied_weights"].build(torch.float64)
    assert isinstance(model, Tied)
    options = {"likelihood": fisher.Categorical(), "labels": "empirical"}
    found, diagonal = (estimate(model, [batch], **options) for estimate in (fisher.kronecker, fisher.diagonal))
    for name in found.rest:
        torch.testing.assert_close(found.rest[name], diagonal[name])
    assert found.rest
