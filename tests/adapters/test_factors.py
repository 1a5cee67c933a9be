"""EWC and L2-SP on an adapter's own weights: nothing new is needed, names are enough."""

import copy
import io

import pytest
import torch
from torch import nn

import forgetting
from forgetting.adapters import lora
from tests.adapters.models import images, mixed, move

pytest.importorskip("peft", reason="the extra 'peft' is not installed")

FACTORS = "*.lora_*"


def batches():
    inputs, targets = images()
    return [(inputs, targets)]


def test_l2_sp_holds_the_factors():
    model = mixed()
    with lora(model, rank=2):
        l2sp = forgetting.L2SP(strength=2.0, parameters=FACTORS)
        l2sp.consolidate(model)
        start = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
        move(model)
        expected = sum((p.detach() - start[name]).square().sum() for name, p in model.named_parameters()
                       if p.requires_grad)
        value = l2sp.penalty(model)
        assert value.item() == pytest.approx(expected.item(), rel=1e-12)
        gradients = torch.autograd.grad(value, [p for p in model.parameters() if p.requires_grad])
        assert all(gradient.any() for gradient in gradients)


def test_ewc_holds_the_factors_by_their_own_fisher():
    model = mixed()
    with lora(model, rank=2):
        move(model, distance=0.1)
        ewc = forgetting.EWC(strength=2.0, parameters=FACTORS)
        ewc.consolidate(model, batches())
        found = ewc.consolidated.curvature
        assert set(found) == {name for name, p in model.named_parameters() if p.requires_grad}
        right = {}
        plain = copy.deepcopy(model).eval()
        for image in images()[0]:
            outputs = plain(image[None]).log_softmax(1)[0]
            for logarithm in outputs:
                parameters = {name: p for name, p in plain.named_parameters() if p.requires_grad}
                gradients = torch.autograd.grad(logarithm, list(parameters.values()), retain_graph=True)
                for name, gradient in zip(parameters, gradients, strict=True):
                    right[name] = right.get(name, 0) + logarithm.exp().detach() * gradient.square() / 6
        for name, value in found.items():
            torch.testing.assert_close(value, right[name], rtol=1e-8, atol=1e-14)


def test_at_the_start_the_first_factor_is_free():
    model = mixed()
    with lora(model, rank=2):
        ewc = forgetting.EWC(strength=2.0, parameters=FACTORS)
        ewc.consolidate(model, batches())
        found = ewc.consolidated.curvature
        assert not any(found[name].any() for name in found if ".lora_A." in name)
        assert all(found[name].any() for name in found if ".lora_B." in name)


def test_it_holds_them_through_training_and_files():
    ends = []
    for strength in (0.0, 100.0):
        model = mixed()
        with lora(model, rank=2):
            move(model, distance=0.1)
            ewc = forgetting.EWC(strength, parameters=FACTORS)
            ewc.consolidate(model, batches())
            file = io.BytesIO()
            torch.save(ewc.state_dict(), file)
            file.seek(0)
            again = forgetting.EWC(strength, parameters=FACTORS)
            again.load_state_dict(torch.load(file, weights_only=True))
            inputs, targets = images(12, seed=7)
            optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
            with again.attach(model, optimizer, mode="gradient"):
                for _ in range(10):
                    optimizer.zero_grad()
                    nn.functional.cross_entropy(model(inputs), targets).backward()
                    optimizer.step()
            ewc.strength = 1.0
            ends.append(ewc.penalty(model).item())
    assert 0 < ends[1] < 0.7 * ends[0]


def test_they_belong_to_one_adapter():
    model = mixed()
    ewc = forgetting.EWC(1.0, parameters=FACTORS)
    with lora(model, rank=2):
        ewc.consolidate(model, batches())
    with pytest.raises(ValueError, match="which the model does not have"):
        ewc.penalty(model)
