"""Mixout: θ in expectation and in eval mode, the anchor where it is drawn, and ordinary weights afterwards."""

import copy
import io

import pytest
import torch
from torch import nn

from forgetting.mixout import mixout


def network(dropout=0.0):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 50), nn.ReLU(), nn.Dropout(dropout), nn.Linear(50, 3)).train()


def original(layer, key="weight"):
    return layer.parametrizations[key].original


def move(model, distance=1.0):
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(distance)


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.9])
def test_a_weight_is_its_anchor_or_further_away_and_itself_in_the_mean(probability):
    model = network()
    anchor = model[3].weight.detach().clone()
    with mixout(model, probability):
        move(model)
        drawn = torch.stack([(model[3].weight - anchor).detach() for _ in range(400)])
    stays, goes = drawn.abs() < 1e-5, (drawn - 1 / (1 - probability)).abs() < 1e-4
    assert (stays ^ goes).all()
    assert stays.double().mean().item() == pytest.approx(probability, abs=0.01)
    error = (probability / (1 - probability) / drawn.numel()) ** 0.5
    assert drawn.double().mean().item() == pytest.approx(1.0, abs=5 * error)


def test_gradients_reach_what_is_kept():
    model = network()
    with mixout(model, 0.5, "3.weight"):
        move(model)
        mixed = model[3].weight
        mixed.sum().backward()
        kept = (mixed - original(model[3]).detach() + 1).detach() > 0.5
        torch.testing.assert_close(original(model[3]).grad, kept * 2.0)


def test_eval_mode_is_the_plain_model():
    model, inputs = network(), torch.randn(5, 4)
    with mixout(model, 0.5):
        move(model)
        twin = network()
        move(twin)
        assert torch.equal(model.eval()(inputs), twin.eval()(inputs))
        assert not torch.equal(model.train()(inputs), twin.train()(inputs))
        model[0].eval()
        assert torch.equal(model[0](inputs), twin[0](inputs))


def test_afterwards_the_learned_weights_are_ordinary():
    model = network()
    names, parameters = list(model.state_dict()), list(model.parameters())
    handle = mixout(model, 0.5)
    assert list(model.state_dict()) != names
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(torch.randn(5, 4)).square().sum().backward()
    optimizer.step()
    learned = original(model[0]).detach().clone()
    handle.remove()
    handle.remove()
    assert list(model.state_dict()) == names
    assert type(model[0]) is nn.Linear
    assert torch.equal(model[0].weight, learned)
    assert [id(weight) for weight in model.parameters()] == [id(weight) for weight in parameters]
    optimizer.zero_grad()
    model(torch.randn(5, 4)).sum().backward()
    optimizer.step()
    assert not torch.equal(model[0].weight, learned)


def drawn(model, count=3):
    """Some outputs in train mode."""
    return torch.stack([model(torch.ones(1, 4)) for _ in range(count)])


def test_the_same_seed_draws_the_same_masks_and_no_other_generator_is_used():
    found = []
    for seed in (0, 0, 1):
        model, random = network(), torch.random.get_rng_state()
        with mixout(model, 0.5, seed=seed):
            move(model)
            found.append(drawn(model))
        assert torch.equal(torch.random.get_rng_state(), random)
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
    assert not torch.equal(found[0][0], found[0][1])


def test_it_goes_on_where_a_file_stopped():
    model = network()
    with mixout(model, 0.5):
        move(model)
        drawn(model)
        file = io.BytesIO()
        torch.save(model.state_dict(), file)
        expected = drawn(model)
    file.seek(0)
    again = network()
    move(again, 7.0)
    with mixout(again, 0.5):
        again.load_state_dict(torch.load(file, weights_only=True))
        assert torch.equal(drawn(again), expected)


def test_a_copy_is_mixed_likewise():
    model = network()
    with mixout(model, 0.5):
        move(model)
        twin = copy.deepcopy(model)
        assert torch.equal(drawn(model), drawn(twin))


def test_only_what_is_chosen_and_learns_is_mixed():
    model = network()
    model[0].bias.requires_grad_(False)
    with mixout(model, 0.5):
        assert {name for name, _ in model.named_parameters() if "original" in name} == {
            "0.parametrizations.weight.original", "3.parametrizations.weight.original",
            "3.parametrizations.bias.original",
        }
    with mixout(model, 0.5, "0.*"):
        assert [name for name, _ in model.named_parameters() if "original" in name] == [
            "0.parametrizations.weight.original", "0.parametrizations.bias.original"]
    with mixout(model, 0.5, "*.weight"):
        pass
    assert list(model.state_dict()) == list(network().state_dict())
    with mixout(model, 0.0):
        assert "0.weight" in model.state_dict()


def test_tied_weights_are_mixed_wherever_they_hang():
    model = nn.ModuleDict({"in": nn.Linear(3, 3, bias=False), "out": nn.Linear(3, 3, bias=False)})
    model["out"].weight = model["in"].weight
    with mixout(model, 0.5, seed=3):
        move(model)
        assert torch.equal(model["in"].weight, model["out"].weight)
        assert not torch.equal(model["in"].weight, original(model["in"]))
    assert model["in"].weight is model["out"].weight


@pytest.mark.parametrize("probability", [-0.1, 1.0, float("nan")])
def test_a_probability_is_below_1(probability):
    with pytest.raises(ValueError, match="must lie in"):
        mixout(network(), probability)


def test_weights_that_could_not_be_mixed_are_refused():
    with pytest.raises(ValueError, match="recurrent layer"):
        mixout(nn.Sequential(nn.Linear(3, 3), nn.LSTM(3, 3)), 0.5)
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(3, 3)), nn.Linear(3, 3))
    with pytest.raises(ValueError, match="made by a parametrization already"):
        mixout(model, 0.5)
    with mixout(model, 0.5, "1.*"):
        pass


def test_attention_is_mixed():
    model, inputs = nn.MultiheadAttention(4, 2, batch_first=True).train(), torch.randn(2, 3, 4)
    plain = model(inputs, inputs, inputs)[0]
    with mixout(model, 0.5):
        assert torch.allclose(model(inputs, inputs, inputs)[0], plain, atol=1e-6)
        move(model)
        assert not torch.allclose(model(inputs, inputs, inputs)[0], model(inputs, inputs, inputs)[0])
