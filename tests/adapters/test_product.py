"""EWC on the product: the penalty of the merged model, found by name, through files, moves and wrong uses."""

import copy
import io

import pytest
import torch
from torch import nn

import forgetting
from forgetting import fisher
from forgetting.adapters import ProductEWC, lora
from forgetting.adapters.pairs import base_name
from forgetting.curvature import Anchored, Diagonal
from tests.adapters.models import images, mixed, move

peft = pytest.importorskip("peft", reason="the extra 'peft' is not installed")

STRENGTH = 3.0
HELD = {"stem.weight", "point.weight", "body.0.weight", "body.3.weight", "head.weight"}


def batches(size=3, seed=2, dtype=torch.float64):
    inputs, targets = images(seed=seed, dtype=dtype)
    return list(zip(inputs.split(size), targets.split(size), strict=True))


def learned(model, *, strength=STRENGTH, **settings):
    """A penalty that knows the model."""
    regularizer = ProductEWC(strength, **settings)
    regularizer.consolidate(model, batches(dtype=next(model.parameters()).dtype))
    return regularizer


def test_zero_before_consolidation_at_strength_0_and_at_the_start():
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        model = mixed(dtype)
        with lora(model, rank=2):
            for regularizer in (ProductEWC(STRENGTH), ProductEWC(0.0)):
                value = regularizer.penalty(model)
                assert value.item() == 0
                assert value.shape == ()
                assert value.dtype == torch.promote_types(dtype, torch.float32)
                assert not value.requires_grad
    model = mixed()
    regularizer = learned(model)
    with lora(model, rank=2):
        assert regularizer.penalty(model).item() == 0
        move(model)
        assert regularizer.penalty(model).item() > 1e-3
        regularizer.strength = 0
        assert not regularizer.penalty(model).requires_grad


def test_it_is_the_penalty_of_the_merged_model():
    model = mixed()
    regularizer, ewc = learned(model), forgetting.EWC(STRENGTH)
    ewc.consolidate(model, batches())
    assert set(regularizer.curvature) == HELD
    with lora(model, rank=2, scale=0.3):
        move(model)
        value = regularizer.penalty(model)
        trained = [p for p in model.parameters() if p.requires_grad]
        gradients = torch.autograd.grad(value, trained)
        # The dense way: the merged weights as functions of the factors.
        total = 0
        for path in ("stem", "point", "body.0", "body.3"):
            layer = model.get_submodule(path)
            change = 0.3 * layer.lora_B["default"].weight.flatten(1) @ layer.lora_A["default"].weight.flatten(1)
            importance = ewc.consolidated.curvature[f"{path}.weight"]
            total = total + 0.5 * STRENGTH * (importance * change.reshape(importance.shape).square()).sum()
        right = torch.autograd.grad(total, trained)
    assert value.item() > 1e-4
    assert value.item() == pytest.approx(ewc.penalty(model).item(), rel=1e-10)
    for found, expected in zip(gradients, right, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-14)


def test_linear_in_the_strength_whatever_the_batches():
    values = []
    for size in (1, 4, 6):
        model = mixed()
        regularizer = ProductEWC(2.0)
        regularizer.consolidate(model, batches(size))
        with lora(model, rank=2):
            move(model)
            values.append(regularizer.penalty(model).item())
            regularizer.strength = 7.0
            assert regularizer.penalty(model).item() == pytest.approx(3.5 * values[-1], rel=1e-12)
    assert values == pytest.approx([values[0]] * 3, rel=1e-10)


def test_the_model_is_left_as_found():
    model = mixed()
    model.body[0].bias.requires_grad_(False)
    random = torch.random.get_rng_state()
    before = copy.deepcopy(model)
    learned(model)
    regularizer = learned(model)
    assert [m.training for m in model.modules()] == [m.training for m in before.modules()]
    assert [p.requires_grad for p in model.parameters()] == [p.requires_grad for p in before.parameters()]
    with lora(model, rank=2):
        names = list(model.state_dict())
        regularizer.penalty(model)
        assert list(model.state_dict()) == names
        assert all(p.grad is None for p in model.parameters())
    for name, value in model.state_dict().items():
        assert torch.equal(value, before.state_dict()[name])
    assert torch.equal(torch.random.get_rng_state(), random)


@pytest.mark.parametrize("tasks", [0, 1, 2])
def test_the_state_goes_through_a_file(tasks):
    model = mixed()
    regularizer = ProductEWC(STRENGTH, decay=0.5, labels="sampled")
    for task in range(tasks):
        regularizer.consolidate(model, batches(seed=task))
    file = io.BytesIO()
    torch.save(regularizer.state_dict(), file)
    file.seek(0)
    again = ProductEWC(STRENGTH, decay=0.5, labels="sampled")
    again.load_state_dict(torch.load(file, weights_only=True))
    for either in (again, regularizer):
        either.consolidate(model, batches(seed=9))
    with lora(model, rank=2):
        move(model)
        assert torch.equal(again.penalty(model), regularizer.penalty(model))
        assert regularizer.penalty(model).item() > 0
    with pytest.raises(ValueError, match="the state of a EWC"):
        again.load_state_dict(forgetting.EWC(1.0).state_dict())


def test_tasks_add_up_and_the_change_counts_from_the_last():
    model = mixed()
    regularizer = ProductEWC(STRENGTH, decay=0.5)
    regularizer.consolidate(model, batches(seed=1))
    first = regularizer.curvature
    with lora(model, rank=2):
        move(model)
        assert regularizer.penalty(model).item() > 0
    second = fisher.diagonal(model, batches(seed=2))
    regularizer.consolidate(model, batches(seed=2))
    for name in HELD:
        torch.testing.assert_close(regularizer.curvature[name], 0.5 * first[name] + second[name])
    with lora(model, rank=2, seed=1):
        assert regularizer.penalty(model).item() == 0


def test_a_matrix_from_a_file_serves_in_place_of_the_data(tmp_path):
    model = mixed()
    kept = fisher.anchored(model, batches())
    kept.save(tmp_path / "kept")
    given, estimated = ProductEWC(STRENGTH), learned(model)
    given.consolidate(model, curvature=Anchored.load(tmp_path / "kept"))
    bare = ProductEWC(STRENGTH)
    wrapped = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["0", "3"]))
    bare.consolidate(wrapped, curvature=Diagonal({f"base_model.model.{name}": value
                                                  for name, value in kept.curvature.items()}))
    move(wrapped)
    values = [which.penalty(wrapped).item() for which in (given, estimated, bare)]
    assert values[0] > 0
    assert values == [values[0]] * 3
    with torch.no_grad():
        model.point.weight.add_(1)
    with pytest.raises(ValueError, match="estimated at other weights than the model's, at 'point.weight'"):
        ProductEWC(1.0).consolidate(model, curvature=kept)


def test_names_are_those_without_adapters():
    names = {"base_model.model.body.0.base_layer.weight": "body.0.weight", "body.0.weight": "body.0.weight",
             "_orig_mod.body.0.base_layer": "body.0", "base_model.model.base_model.weight": "base_model.weight"}
    assert {name: base_name(name) for name in names} == names
    model = mixed()
    regularizer = learned(model)
    with lora(model, rank=2):
        move(model)
        value = regularizer.penalty(model)
        assert torch.equal(regularizer.penalty(torch.compile(model, backend="eager")), value)

        def loss(network):
            return regularizer.penalty(network) + 1

        assert torch.equal(torch.compile(loss, backend="eager")(model), value + 1)
        assert torch.equal(copy.deepcopy(regularizer).penalty(copy.deepcopy(model)), value)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(regularizer.penalty(model), value)


def test_a_transposed_layer_is_held_by_its_own_weights():
    pytest.importorskip("transformers")
    from tests.pretrained import gpt

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = gpt().double().eval()
    tokens = torch.tensor([[1, 2, 3, 4], [5, 0, 1, 2]])
    settings = {"likelihood": fisher.CausalLanguageModel()}
    data = [{"input_ids": tokens, "labels": tokens}]
    ewc, product = forgetting.EWC(STRENGTH, labels="empirical", **settings), ProductEWC(STRENGTH, labels="empirical",
                                                                                       **settings)
    for either in (ewc, product):
        either.consolidate(model, data)
    with lora(model, rank=2):
        move(model, distance=0.1)
        value = product.penalty(model).item()
    assert value > 0
    assert value == pytest.approx(ewc.penalty(model).item(), rel=1e-9)


def test_training_with_it_stays_nearer_in_the_matrix():
    ends = []
    for strength in (0.0, 30.0):
        model = mixed()
        regularizer = learned(model, strength=strength)
        ewc = forgetting.EWC(1.0)
        ewc.consolidate(model, batches())
        inputs, targets = images(12, seed=7)
        with lora(model, rank=2):
            optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
            for _ in range(20):
                optimizer.zero_grad()
                (nn.functional.cross_entropy(model(inputs), targets) + regularizer.penalty(model)).backward()
                optimizer.step()
        ends.append(ewc.penalty(model).item())
    assert 0 < ends[1] < 0.7 * ends[0]


def test_weights_that_were_frozen_are_held_too():
    model = mixed().requires_grad_(False)
    assert set(learned(model).curvature) == HELD


@pytest.mark.parametrize("normalize", ["mean", "trace"])
def test_a_normalized_matrix_is_divided_by_what_is_stored(normalize):
    model = mixed()
    plain, divided = learned(model), learned(model, normalize=normalize)
    total = sum(value.sum().item() for value in plain.curvature.values())
    count = sum(value.numel() for value in plain.curvature.values()) if normalize == "mean" else 1
    assert plain.divisors == (1.0,)
    assert divided.divisors == pytest.approx((total / count,))
    again = ProductEWC(STRENGTH, normalize=normalize)
    again.load_state_dict(divided.state_dict())
    assert again.divisors == divided.divisors
    with lora(model, rank=2):
        move(model)
        assert divided.penalty(model).item() == pytest.approx(plain.penalty(model).item() * count / total, rel=1e-6)
