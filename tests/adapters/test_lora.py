"""LoRA: nothing changes when it comes, nothing but the weights when it goes, and only what it adds learns."""

import copy
import warnings

import pytest
import torch
from torch import nn

from forgetting.adapters import lora
from tests.adapters.models import images, mixed, move

pytest.importorskip("peft", reason="the extra 'peft' is not installed")

ADAPTED = ["stem", "point", "body.0", "body.3"]


def trainable(model):
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


def test_the_model_starts_as_it_was_and_only_the_adapters_learn():
    model, (inputs, _) = mixed(), images()
    expected = copy.deepcopy(model).eval()(inputs)
    modes = {name: module.training for name, module in model.named_modules()}
    handle = lora(model, rank=2)
    assert trainable(model) == [f"{path}.lora_{kind}.default.weight" for path in ADAPTED for kind in "AB"]
    for name, module in model.named_modules():
        around = name.partition(".lora_")[0].removesuffix(".base_layer")
        assert module.training == modes[around], name
    torch.testing.assert_close(model.eval()(inputs), expected, rtol=0, atol=0)
    handle.remove()


def test_after_it_is_merged_nothing_has_changed_but_the_weights():
    model, (inputs, _) = mixed(), images()
    model.stem.bias.requires_grad_(False)
    before = copy.deepcopy(model)
    identities = {name: (id(parameter), parameter.data_ptr()) for name, parameter in model.named_parameters()}
    attributes = set(vars(model))
    with lora(model, rank=3, scale=0.5):
        move(model)
        model.eval()
        modes = {name: module.training for name, module in model.named_modules() if "lora" not in name}
        expected = model(inputs)
        assert not torch.allclose(expected, before.eval()(inputs))
    torch.testing.assert_close(model(inputs), expected, rtol=1e-12, atol=1e-13)
    assert list(model.state_dict()) == list(before.state_dict())
    assert [name for name, _ in model.named_modules()] == [name for name, _ in before.named_modules()]
    assert [type(module) for module in model.modules()] == [type(module) for module in before.modules()]
    assert {name: (id(parameter), parameter.data_ptr()) for name, parameter in model.named_parameters()} == identities
    assert trainable(model) == trainable(before)
    assert set(vars(model)) == attributes
    assert modes == {name: module.training for name, module in model.named_modules()} | {
        name: mode for name, mode in modes.items() if name.endswith("base_layer")}
    for name, value in model.state_dict().items():
        changed = name.removesuffix(".weight") in ADAPTED
        assert torch.equal(value, before.state_dict()[name]) != changed, name


def test_the_product_is_what_is_added():
    model = mixed()
    before = copy.deepcopy(model.state_dict())
    with lora(model, rank=2, scale=0.25):
        move(model)
        factors = {path: (model.get_submodule(path).lora_B["default"].weight.detach().clone(),
                          model.get_submodule(path).lora_A["default"].weight.detach().clone()) for path in ADAPTED}
    for path, (up, down) in factors.items():
        weight = before[f"{path}.weight"]
        expected = weight + 0.25 * torch.einsum("mr,rn->mn", up.flatten(1), down.flatten(1)).reshape(weight.shape)
        torch.testing.assert_close(model.state_dict()[f"{path}.weight"], expected, rtol=1e-12, atol=1e-13)


def test_training_moves_nothing_else_and_learns():
    model, (inputs, targets) = mixed(torch.float32), images(24, dtype=torch.float32)
    before = copy.deepcopy(model.state_dict())
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    model.train()
    model.body[2].eval()
    losses = []
    with lora(model, rank=2, head="head"):
        assert trainable(model)[-2:] == ["head.weight", "head.bias"]
        assert model.norm.weight.grad is None
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.05, weight_decay=0.1)
        for _ in range(20):
            optimizer.zero_grad(set_to_none=False)
            loss = nn.functional.cross_entropy(model(inputs), targets)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {f"{path}.weight" for path in ADAPTED} | {"head.weight", "head.bias"}


@pytest.mark.parametrize("kind", ["gpt", "bert", "vit", "resnet", "efficientnet"])
def test_pretrained_models(kind):
    pytest.importorskip({"resnet": "torchvision", "vit": "timm", "efficientnet": "timm"}.get(kind, "transformers"))
    from tests import pretrained

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = getattr(pretrained, kind)().eval()
        inputs = {"gpt": lambda: torch.randint(6, (2, 4)), "bert": lambda: torch.randint(1, 11, (2, 5)),
                  "vit": lambda: torch.randn(2, 3, 16, 16)}.get(kind, lambda: torch.randn(2, 3, 32, 32))()

    def outputs():
        found = model(inputs)
        return getattr(found, "logits", found).detach()

    before, first = copy.deepcopy(model.state_dict()), outputs()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        handle = lora(model, rank=2, inputs=inputs if isinstance(inputs, torch.Tensor) else (inputs,))
    names = trainable(model)
    torch.testing.assert_close(outputs(), first, rtol=1e-5, atol=1e-5)
    ends = {"gpt": "lm_head", "bert": "classifier", "vit": "head", "resnet": "fc", "efficientnet": "classifier"}
    assert names
    assert not any(name.startswith(ends[kind] + ".") for name in names)
    move(model, distance=0.1)
    expected = outputs()
    assert not torch.allclose(expected, first, rtol=1e-3)
    handle.remove()
    torch.testing.assert_close(outputs(), expected, rtol=1e-4, atol=1e-4)
    assert list(model.state_dict()) == list(before)


def test_what_would_not_merge_is_left_out_and_refused():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.tied = nn.Embedding(5, 6), nn.Linear(6, 5, bias=False)
            self.tied.weight = self.table.weight
            self.once = self.again = nn.Linear(6, 6)
            self.grouped, self.dilated = nn.Conv2d(4, 4, 3, groups=2), nn.Conv2d(4, 4, 3, dilation=2)
            self.circular = nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular")
            self.made = nn.utils.parametrizations.weight_norm(nn.Linear(6, 6))
            self.encoder = nn.TransformerEncoderLayer(6, 2, 8, batch_first=True)
            self.fine, self.head = nn.Linear(6, 6), nn.Linear(6, 3)

    model = Odd()
    reasons = {"tied": "used elsewhere", "once": "used elsewhere", "grouped": "2 groups", "dilated": "dilation",
               "circular": "padding", "made": "parametrization", "encoder.linear1": "without calling it",
               "encoder.self_attn.out_proj": "without calling it"}
    with lora(model, rank=2):
        assert trainable(model) == ["fine.lora_A.default.weight", "fine.lora_B.default.weight"]
    for path, reason in reasons.items():
        with pytest.raises(ValueError, match=f"there can be none: {path}: .*{reason}"):
            lora(model, rank=2, modules=path)
    with pytest.raises(ValueError, match="there can be none: no layer"):
        lora(model, rank=2, modules=lambda path: False)
    with lora(model, rank=2, modules="*"):
        assert {name.partition(".")[0] for name in trainable(model)} == {"fine", "head"}


def test_layers_are_chosen_by_pattern_and_by_function():
    model = mixed()
    for modules, expected in (("body", ["body.0", "body.3"]), (["stem", "body.3"], ["stem", "body.3"]),
                              (lambda path: path == "head", ["head"]), ("0", None)):
        if expected is None:
            with pytest.raises(ValueError, match="the pattern '0' matches none of the model's 5 linear layers"):
                lora(model, modules=modules)
            continue
        with lora(model, rank=2, modules=modules):
            assert trainable(model) == [f"{path}.lora_{kind}.default.weight" for path in expected for kind in "AB"]


def test_a_path_is_not_the_end_of_another_path():
    model = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), nn.Linear(4, 2))
    with lora(model, rank=2, modules=lambda path: path == "0"):
        assert trainable(model) == ["0.lora_A.default.weight", "0.lora_B.default.weight"]


def test_the_last_layer_is_the_one_that_runs_last():
    class Reversed(nn.Module):
        def __init__(self):
            super().__init__()
            self.head, self.middle, self.first = nn.Linear(4, 2), nn.Linear(4, 4), nn.Linear(3, 4)

        def forward(self, inputs):
            return self.head(torch.relu(self.middle(torch.relu(self.first(inputs)))))

    for inputs, without in ((None, "first"), (torch.ones(2, 3), "head"), ((torch.ones(2, 3),), "head"),
                            ({"inputs": torch.ones(2, 3)}, "head")):
        model = Reversed()
        with lora(model, rank=2, inputs=inputs):
            assert {name.partition(".")[0] for name in trainable(model)} == {"head", "middle", "first"} - {without}


def test_the_seed_says_what_A_is_and_the_global_generator_is_not_used():
    random = torch.random.get_rng_state()
    first = []
    for seed in (0, 0, 1):
        model = mixed()
        with lora(model, rank=4, seed=seed):
            layer = model.body[0]
            first.append(layer.lora_A["default"].weight.detach().clone())
            assert layer.lora_A["default"].weight.abs().max() <= 5**-0.5
            assert not layer.lora_B["default"].weight.any()
    assert torch.equal(torch.random.get_rng_state(), random)
    assert torch.equal(first[0], first[1])
    assert not torch.equal(first[0], first[2])
    assert first[0].std().item() == pytest.approx((5 * 3) ** -0.5, rel=0.5)


def test_weights_in_16_bits_have_adapters_in_32():
    model, (inputs, _) = mixed(torch.bfloat16), images(dtype=torch.bfloat16)
    with lora(model, rank=2):
        assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
        move(model)
        expected = model.eval()(inputs)
    assert {value.dtype for value in model.state_dict().values() if value.is_floating_point()} == {torch.bfloat16}
    torch.testing.assert_close(model(inputs), expected, rtol=0.1, atol=0.1)


def test_one_handle_at_a_time_and_again_afterwards():
    model = mixed()
    names = list(model.state_dict())
    handle = lora(model, rank=2)
    with pytest.raises(ValueError, match="has adapters already, in 'stem'"):
        lora(model, rank=2)
    handle.remove()
    handle.remove()
    for _ in range(2):
        with lora(model, rank=2):
            assert list(model.state_dict()) != names
        assert list(model.state_dict()) == names


def test_what_fails_leaves_the_model_as_it_was(monkeypatch):
    import peft

    model = mixed()
    before = copy.deepcopy(model)

    class Failing(peft.LoraModel):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            raise KeyError("half way")

    monkeypatch.setattr(peft, "LoraModel", Failing)
    with pytest.raises(KeyError, match="half way"):
        lora(model, rank=2)
    assert list(model.state_dict()) == list(before.state_dict())
    assert trainable(model) == trainable(before)
    assert set(vars(model)) == set(vars(before))
    for name, value in model.state_dict().items():
        assert torch.equal(value, before.state_dict()[name])


def test_arguments_that_do_not_fit_raise():
    model = mixed()
    for rank in (0, -1, 2.0, True):
        with pytest.raises(ValueError, match="rank=.* whole number"):
            lora(model, rank=rank)
    for scale in (0, -1, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="scale=.* finite and above 0"):
            lora(model, scale=scale)
    with pytest.raises(ValueError, match="'tail' matches none of the model's 11 parameters"):
        lora(model, head="tail")
    with pytest.raises(ValueError, match="head: it learns whole"):
        lora(model, modules="head", head="head")
    with pytest.raises(ValueError, match="no layer that an adapter could be added to, beside the last"):
        lora(nn.Sequential(nn.Linear(2, 2), nn.ReLU()))
    with pytest.raises(ValueError, match="no layer that an adapter could be added to"):
        lora(nn.Sequential(nn.Embedding(2, 2)))
    assert not [name for name, _ in model.named_parameters() if "lora" in name]
