"""The small networks: their sizes, all logits, and their errors."""

import pytest
import torch
from torch import nn

from forgetting.tasks import TaskSequence, network, split
from tests.tasks.images import parts


def pairs(shape=(1, 8, 8), classes=10):
    return split("pairs", parts(classes, shape), 5)


@pytest.mark.parametrize(
    ("shape", "sizes"),
    [((1, 8, 8), [(64, 128), (128, 128), (128, 10)]), ((1, 28, 28), [(784, 400), (400, 400), (400, 10)])],
)
def test_the_mlp_has_two_hidden_layers_of_the_stated_sizes(shape, sizes):
    model = network("mlp", pairs(shape))
    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    assert [(layer.in_features, layer.out_features) for layer in layers] == sizes
    assert sum(isinstance(module, nn.ReLU) for module in model.modules()) == 2


@pytest.mark.parametrize("name", ["mlp", "cnn"])
@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 9, 7)])
def test_a_network_gives_all_logits_of_its_sequence_and_learns(name, shape):
    ours: TaskSequence = pairs(shape)
    model = network(name, ours)
    inputs, targets = next(iter(ours[1].train.batches(6)))
    outputs = model(inputs)
    assert outputs.shape == (6, 10)
    nn.functional.cross_entropy(outputs, targets).backward()
    assert all(bool(parameter.grad.abs().sum() > 0) for parameter in model.head.parameters())
    assert list(dict(model.named_children())) == ["body", "head"]


def test_the_cnn_normalises_by_batches():
    model = network("cnn", pairs())
    assert sum(isinstance(module, nn.BatchNorm2d) for module in model.modules()) == 3


def test_the_caller_decides_the_weights_by_the_seed():
    def weights(seed):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return network("mlp", pairs()).head.weight

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


def test_unknown_networks_and_inputs_that_do_not_suit():
    with pytest.raises(ValueError, match="no network 'mpl'; did you mean 'mlp'"):
        network("mpl", pairs())
    with pytest.raises(ValueError, match=r'images .* not inputs of shape \(7,\); try "mlp"'):
        network("cnn", pairs((7,)))
