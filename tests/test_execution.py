"""Execution order: every parameter once, where a forward pass first uses it."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from forgetting.execution import execution_groups
from tests import pretrained


def flat(groups):
    return sorted(name for group in groups for name in group)


def names(model):
    return sorted(name for name, _ in model.named_parameters())


class Reversed(nn.Module):
    """Registered head first; the body runs first, and twice; one layer never runs."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(3, 2)
        self.unused = nn.Linear(1, 1)
        self.body = nn.Linear(3, 3)
        self.again = self.body
        self.scale = nn.Parameter(torch.ones(3))

    def forward(self, x):
        return self.head(self.again(self.body(x)) * self.scale)


def test_order_is_that_of_the_forward_pass():
    assert execution_groups(Reversed(), torch.randn(1, 3)) == [
        ["body.weight", "body.bias"], ["scale"], ["head.weight", "head.bias"], ["unused.weight", "unused.bias"]]


def test_without_inputs_the_order_is_that_of_registration():
    assert [group[0] for group in execution_groups(Reversed())] == [
        "scale", "head.weight", "unused.weight", "body.weight"]


def test_an_attention_layer_has_all_its_parameters_though_its_projection_is_never_called():
    model = nn.MultiheadAttention(4, 2)
    inputs = (torch.randn(3, 1, 4),) * 3
    assert execution_groups(model, inputs) == [
        ["in_proj_weight", "in_proj_bias"], ["out_proj.weight", "out_proj.bias"]]


def test_the_fast_path_of_a_transformer_layer_keeps_the_order():
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), 2)
    groups = execution_groups(model, torch.randn(2, 3, 4))
    assert [group[0].removeprefix("layers.0.") for group in groups[:6]] == [
        "self_attn.in_proj_weight", "self_attn.out_proj.weight", "norm1.weight", "linear1.weight", "linear2.weight",
        "norm2.weight"]
    assert all(name.startswith("layers.1.") for group in groups[6:] for name in group)
    blocks = execution_groups(model, torch.randn(2, 3, 4), blocks=True)
    assert [{name.split(".")[1] for name in group} for group in blocks] == [{"0"}, {"1"}]


def test_a_parametrised_weight_belongs_to_the_layer_that_uses_it():
    model = nn.Sequential(parametrizations.weight_norm(nn.Linear(2, 2)), nn.Linear(2, 1))
    groups = execution_groups(model, torch.randn(1, 2))
    assert [len(group) for group in groups] == [3, 2]


def test_reading_a_shape_or_dtype_is_no_use():
    class Asks(Reversed):
        def forward(self, x):
            return super().forward(x.to(next(self.head.parameters()).dtype).reshape(-1, self.head.weight.size(1)))

    assert execution_groups(Asks(), torch.randn(1, 3))[0] == ["body.weight", "body.bias"]


def test_parameters_that_only_a_compiled_extension_sees_count_when_their_module_runs():
    class Hidden(nn.Linear):
        def forward(self, x):
            return torch.from_numpy(x.numpy() @ self.__dict__["values"])

    model = nn.Sequential(nn.Linear(2, 2), Hidden(2, 2), nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].__dict__["values"] = model[1].weight.detach().numpy()
    model[0], model[3] = model[3], model[0]
    assert execution_groups(model, torch.randn(1, 2))[1] == ["1.weight", "1.bias"]


def test_a_model_that_uses_nothing_or_has_nothing_raises():
    class Idle(Reversed):
        def forward(self, x):
            return x

    class Unused(Reversed):
        def __init__(self):
            super().__init__()
            self.mask = nn.Parameter(torch.ones(1))

        def forward(self, x):
            return self.head(self.body(x))

    assert execution_groups(Unused(), torch.zeros(1, 3))[-2:] == [["scale", "mask"], ["unused.weight", "unused.bias"]]
    with pytest.raises(ValueError, match="uses none of its 7 parameters"):
        execution_groups(Idle(), torch.zeros(1))
    with pytest.raises(ValueError, match="has no parameters"):
        execution_groups(nn.ReLU(), torch.zeros(1))


def test_the_model_is_left_as_found_also_after_an_exception():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Dropout(), nn.Linear(2, 1)).train()
    model[1].eval()
    model[0].weight.requires_grad_(False)
    before, state = copy.deepcopy(model.state_dict()), torch.random.get_rng_state()
    execution_groups(model, torch.randn(4, 2, generator=torch.Generator()))
    with pytest.raises(RuntimeError):
        execution_groups(model, torch.zeros(4, 7))
    assert [module.training for module in model] == [True, False, True, True]
    assert not model[0].weight.requires_grad
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert torch.equal(state, torch.random.get_rng_state())
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_a_compiled_model_is_put_in_order_too():
    compilations = []

    def backend(graph, _inputs):
        compilations.append(graph)
        return graph

    model = Reversed()
    compiled = torch.compile(model, backend=backend)
    compiled(torch.randn(1, 3))
    count = len(compilations)
    assert execution_groups(compiled, torch.randn(1, 3)) == execution_groups(model, torch.randn(1, 3))
    assert len(compilations) == count


def test_resnet():
    pytest.importorskip("torchvision")
    model = pretrained.resnet()
    groups = execution_groups(model, torch.randn(2, 3, 32, 32))
    assert flat(groups) == names(model)
    assert groups[:2] == [["conv1.weight"], ["bn1.weight", "bn1.bias"]]
    assert groups[-1] == ["fc.weight", "fc.bias"]
    blocks = execution_groups(model, torch.randn(2, 3, 32, 32), blocks=True)
    assert [block[0].rpartition(".conv1")[0] for block in blocks[2:-1]] == [
        "layer1.0", "layer2.0", "layer2.1", "layer3.0", "layer4.0"]


def test_timm():
    pytest.importorskip("timm")
    vit = pretrained.vit()
    blocks = execution_groups(vit, torch.randn(2, 3, 16, 16), blocks=True)
    assert flat(blocks) == names(vit)
    assert [block[0] for block in blocks] == [
        "patch_embed.proj.weight", "cls_token", "blocks.0.norm1.weight", "blocks.1.norm1.weight", "norm.weight",
        "head.weight"]
    efficientnet = pretrained.efficientnet()
    groups = execution_groups(efficientnet, torch.randn(2, 3, 32, 32))
    assert flat(groups) == names(efficientnet)
    assert groups[0] == ["conv_stem.weight"]
    assert groups[-1] == ["classifier.weight", "classifier.bias"]


def test_transformers():
    pytest.importorskip("transformers")
    bert = pretrained.bert()
    blocks = execution_groups(bert, pretrained.bert_inputs(2, 5), blocks=True)
    assert flat(blocks) == names(bert)
    assert [len(block) for block in blocks[4:]] == [16, 16, 2, 2]
    gpt = pretrained.gpt()
    groups = execution_groups(gpt, {"input_ids": torch.zeros(2, 4, dtype=torch.long)})
    assert flat(groups) == names(gpt)
    assert groups[0] == ["transformer.wte.weight"]
    assert groups[-1] == ["transformer.ln_f.weight", "transformer.ln_f.bias"]
