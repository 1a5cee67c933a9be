"""DELTA: attention by switching channels off one at a time, and the distance it weighs."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from forgetting.regularizers import DELTA, FeatureL2
from tests.regularizers.distilled import numbers, seeded, shift

IMAGES, TARGETS = numbers(6, 3, 4, 4), torch.tensor([0, 1, 2, 0, 1, 2])
DATA = [(IMAGES[:4], TARGETS[:4]), (IMAGES[4:], TARGETS[4:])]


def network():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1), nn.Flatten(),
                         nn.Dropout(0.5), nn.Linear(8, 5))


def without(model, layer, channel, images):
    """The logits with one channel of a layer set to 0, the layers run by hand."""
    for number, module in enumerate(model):
        images = module(images)
        if number == layer:
            images = images.clone()
            images[:, channel] = 0
    return images


def losses(logits, columns):
    """Cross entropies by the definition, each example over some columns."""
    found = []
    for row, target in zip(logits, TARGETS, strict=True):
        powers = {column: math.exp(row[column].item()) for column in columns}
        found.append(-math.log(powers[int(target)] / sum(powers.values())))
    return sum(found) / len(found)


@pytest.mark.parametrize("columns", [[0, 1, 2, 3, 4], [0, 2, 1]])
def test_the_attention_is_the_softmax_of_the_loss_that_each_channel_saves(columns):
    model = seeded(network)
    delta = DELTA(1.0, modules=["0", "3"])
    delta.consolidate(model, DATA, outputs=columns)
    tested = copy.deepcopy(model).eval()
    whole = losses(tested(IMAGES), columns)
    for layer, channels in ((0, 4), (3, 2)):
        gains = [losses(without(tested, layer, channel, IMAGES), columns) - whole for channel in range(channels)]
        expected = [math.exp(gain) / sum(map(math.exp, gains)) for gain in gains]
        assert max(expected) > min(expected) * 1.001
        assert delta.attention[str(layer)].tolist() == pytest.approx(expected, rel=1e-6)


def features(model, layer, images):
    for module in model[: layer + 1]:
        images = module(images)
    return images


def moved(**settings):
    model = seeded(network).eval()
    delta = DELTA(strength=3.0, **settings)
    delta.consolidate(model, DATA)
    old = copy.deepcopy(model)
    shift(model)
    return delta, old, model


def test_the_value_weighs_each_channel_by_its_attention():
    delta, old, model = moved(modules=["0", "3"])
    expected = 0.0
    for layer in (0, 3):
        gap = ((features(model, layer, IMAGES) - features(old, layer, IMAGES)) ** 2).detach()
        for channel, weight in enumerate(delta.attention[str(layer)].tolist()):
            expected += weight * gap[:, channel].mean().item()
    assert delta.penalty(model, IMAGES).item() == pytest.approx(0.5 * 3.0 * expected, rel=1e-6)


def test_the_gradient_is_that_of_finite_differences():
    delta, _, model = moved(modules=["0", "3"])
    delta.penalty(model, IMAGES).backward()
    for weight, place in ((model[0].weight, (1, 2, 0, 1)), (model[1].bias, (2,)), (model[3].weight, (1, 3, 0, 0))):
        ends = []
        for sign in (1, -1):
            with torch.no_grad():
                weight[place] += sign * 1e-6
                ends.append(delta.penalty(model, IMAGES).item())
                weight[place] -= sign * 1e-6
        assert weight.grad[place].item() == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-6)


def test_with_equal_attention_it_is_the_feature_wise_square():
    delta, _, model = moved(modules=["0", "3"])
    state = delta.state_dict()
    state["attention"] = {path: torch.full_like(value, 1 / len(value)) for path, value in state["attention"].items()}
    delta.load_state_dict(state)
    plain = FeatureL2(3.0, modules=["0", "3"])
    plain.load_state_dict({key: value for key, value in state.items() if key != "attention"} | {"class": "FeatureL2"})
    assert delta.penalty(model, IMAGES).item() == pytest.approx(plain.penalty(model, IMAGES).item(), rel=1e-6)


def test_no_batch_size_and_no_layout_of_the_data_changes_the_attention():
    found = []
    for data in (DATA, [(IMAGES, TARGETS)], iter([(IMAGES[:1], TARGETS[:1]), (IMAGES[1:], TARGETS[1:])])):
        delta = DELTA(1.0, modules="0")
        delta.consolidate(seeded(network), data)
        found.append(delta.attention["0"])
    torch.testing.assert_close(found[1], found[0], rtol=1e-6, atol=0)
    torch.testing.assert_close(found[2], found[0], rtol=1e-6, atol=0)


def test_f14_each_argument_changes_something():
    few, _, _ = moved(modules="0", examples=2)
    all_of_them, _, _ = moved(modules="0", examples=None)
    assert not torch.equal(few.attention["0"], all_of_them.attention["0"])
    first_two = DELTA(3.0, modules="0")
    first_two.consolidate(seeded(network), [(IMAGES[:2], TARGETS[:2])])
    torch.testing.assert_close(few.attention["0"], first_two.attention["0"])
    assert list(moved()[0].attention) == ["0", "1", "3"]


def test_the_model_is_left_as_found_and_frozen_is_what_the_owner_froze():
    # Fault F12: `requires_grad = False` on a module is a plain attribute, and freezes nothing.
    model = seeded(network)
    model[1].eval()
    model[0].weight.requires_grad_(False)
    modes = [module.training for module in model.modules()]
    wanted = [weight.requires_grad for weight in model.parameters()]
    values = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    random = torch.random.get_rng_state()
    delta = DELTA(1.0)
    delta.consolidate(model, DATA)
    delta.penalty(model, IMAGES)
    assert [module.training for module in model.modules()] == modes
    assert [weight.requires_grad for weight in model.parameters()] == wanted
    assert all("requires_grad" not in vars(module) for module in model.modules())
    assert all(torch.equal(tensor, values[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), random)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert all(weight.grad is None for weight in model.parameters())
    assert not delta._teacher.values["3.weight"].requires_grad


def test_modules_that_return_tuples_have_channels_too():
    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(4, 3)

        def forward(self, inputs):
            return self.inner(inputs), None

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.pair, self.head = Pair(), nn.Linear(3, 3)

        def forward(self, inputs):
            return self.head(self.pair(inputs)[0])

    model = seeded(Network)
    inputs, targets = numbers(6, 4), TARGETS
    delta = DELTA(1.0, modules="pair")
    delta.consolidate(model, [(inputs, targets)])
    hidden = model.pair.inner(inputs)
    gains = []
    for channel in range(3):
        off = hidden.clone()
        off[:, channel] = 0
        gains.append(functional.cross_entropy(model.head(off), targets)
                     - functional.cross_entropy(model.head(hidden), targets))
    torch.testing.assert_close(delta.attention["pair"], torch.softmax(torch.stack(gains), 0).detach().float())


def test_what_does_not_fit_is_said_and_what_was_known_is_kept():
    delta, _, model = moved(modules="0")
    value = delta.penalty(model, IMAGES)
    for data, outputs, words in (
        (None, None, "DELTA needs data="),
        ([], None, "holds no examples"),
        ([(IMAGES, TARGETS)], [0, 1], r"columns are \[0, 1\]"),
        ([(IMAGES, TARGETS.double())], None, "a class for each example"),
    ):
        with pytest.raises(ValueError, match=words):
            delta.consolidate(model, data, outputs=outputs)
    assert torch.equal(delta.penalty(model, IMAGES), value)
    with pytest.raises(ValueError, match="at least 1"):
        DELTA(1.0, examples=0)
