"""One call for all: the figures are those of the functions, the model is left as found."""

import copy

import pytest
import torch
from torch import nn

from forgetting.similarity import (
    DIRECTIONS,
    frechet,
    h_score,
    leep,
    logme,
    measure,
    mmd,
    nce,
    proxy_a_distance,
)
from forgetting.similarity import __all__ as offered


class Network(nn.Module):
    """A body with statistics and dropout, and a head with columns for two tasks."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.body = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(inplace=True), nn.Dropout(0.5))
            self.head = nn.Linear(6, 5)

    def forward(self, inputs):
        return self.head(self.body(inputs))


def data(seed, shift=0.0, classes=3, batches=4):
    generator = torch.Generator().manual_seed(seed)
    return [(torch.randn(10, 4, generator=generator) + shift, torch.randint(classes, (10,), generator=generator))
            for _ in range(batches)]


SOURCE, TARGET = data(0), data(1, shift=1.0)


def seen(model, batches):
    """Features, all outputs and labels, by running the parts."""
    model = copy.deepcopy(model).eval()
    with torch.no_grad():
        inputs = torch.cat([batch[0] for batch in batches])
        features = model.body(inputs)
        return features, model.head(features), torch.cat([batch[1] for batch in batches])


def test_the_figures_are_those_of_the_functions():
    model = Network()
    found = measure(model, SOURCE, TARGET, module="head", outputs=[0, 1, 3])
    (before, _, _), (features, outputs, labels) = seen(model, SOURCE), seen(model, TARGET)
    p = outputs[:, [0, 1, 3]].double().softmax(1)
    expected = {"leep": leep(p, labels), "nce": nce(p.argmax(1), labels), "logme": logme(features, labels),
                "h_score": h_score(features, labels), "mmd": mmd(before, features),
                "frechet": frechet(before, features), "proxy_a_distance": proxy_a_distance(before, features)}
    assert found == pytest.approx(expected, rel=1e-4)
    assert list(found) == list(expected)


def test_a_farther_task_is_farther():
    model = Network()
    near, far = (measure(model, SOURCE, data(1, shift=shift), module="head") for shift in (0.0, 4.0))
    assert all(near[name] < far[name] for name in near if DIRECTIONS[name] == "farther")


def test_every_measure_has_a_direction():
    functions = set(offered) - {"DIRECTIONS", "Correlation", "correlations", "measure"}
    assert set(DIRECTIONS) == functions
    assert set(DIRECTIONS.values()) == {"closer", "farther"}


def test_exactly_the_first_examples_are_taken_in_any_batches():
    model = Network()
    expected = measure(model, [tuple(torch.cat(part)[:25] for part in zip(*SOURCE, strict=True))],
                       [tuple(torch.cat(part)[:25] for part in zip(*TARGET, strict=True))], module="head")
    assert measure(model, SOURCE, iter(TARGET), module="head", examples=25) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("broken", [False, True])
def test_the_model_is_left_as_found(broken):
    model = Network()
    model.body[1].eval()
    model.head.bias.requires_grad_(False)
    state, modes = copy.deepcopy(model.state_dict()), [module.training for module in model.modules()]
    generator = torch.random.get_rng_state()

    def failing(model, batch):
        model(batch[0])
        raise RuntimeError("in the middle")

    if broken:
        with pytest.raises(RuntimeError, match="in the middle"):
            measure(model, SOURCE, TARGET, module="head", forward=failing)
    else:
        measure(model, SOURCE, TARGET, module="head")
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert not model.head.bias.requires_grad
    assert model.head.weight.grad is None
    assert torch.equal(generator, torch.random.get_rng_state())


def test_batches_of_mappings_and_keyword_arguments():
    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = Network()

        def forward(self, pixels):
            return {"logits": self.network(inputs=pixels)}

    model = Encoder()
    mappings = [[{"pixels": inputs, "labels": labels} for inputs, labels in batches] for batches in (SOURCE, TARGET)]
    found = measure(model, *mappings, module="network.head")
    assert found == measure(model.network, SOURCE, TARGET, module="head")
    inner = measure(model, *mappings, module="network")  # a module that is called by keyword
    assert inner["frechet"] == pytest.approx(
        frechet(*(torch.cat([batch[0] for batch in batches]) for batches in (SOURCE, TARGET))), rel=1e-6)


def test_what_it_refuses():
    model = Network()
    with pytest.raises(ValueError, match="module='heads' is none of the model's 6 modules; did you mean 'head'"):
        measure(model, SOURCE, TARGET, module="heads")
    with pytest.raises(ValueError, match="the target data, by the input of 'head', has no examples"):
        measure(model, SOURCE, iter(()), module="head")
    with pytest.raises(ValueError, match="outputs= names column 5, the model has 5 outputs"):
        measure(model, SOURCE, TARGET, module="head", outputs=[5])
    with pytest.raises(ValueError, match="received 0 tensors in one forward pass"):
        measure(model, SOURCE, TARGET, module="head", forward=lambda model, batch: (model.body(batch[0]), batch[1]))
    pictures = nn.Sequential(nn.Conv2d(1, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 3))
    images = [(torch.randn(4, 1, 3, 3), torch.arange(4) % 2)]
    with pytest.raises(ValueError, match=r"features of shape \(4, 2, 3, 3\) .*behind the pooling"):
        measure(pictures, images, images, module="1")
    assert measure(pictures, images, images, module="3")["frechet"] == pytest.approx(0, abs=1e-9)
