"""A model that passes through the estimate is left as found, exceptions included."""

import copy

import pytest
import torch
from torch import nn

from forgetting import fisher
from tests.cases import CASES, cut
from tests.fisher.estimates import LIKELIHOODS, require

STATEFUL = ("residual_in_place", "dropout", "spectral_norm", "weight_norm", "frozen_trunk", "encoder_layer", "lstm",
            "instance_norm_tracked", "tied_weights", "overwritten_input",
            "embedding_rescaled", "checkpointed", "differentiated_inside", "gpt", "resnet", "efficientnet", "vit")
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def state(model):
    """Everything a caller could notice."""
    return {
        "tensors": {name: (id(t), t._version, t.clone()) for name, t in model.state_dict(keep_vars=True).items()},
        "modes": {name: module.training for name, module in model.named_modules()},
        "frozen": {name: p.requires_grad for name, p in model.named_parameters()},
        "gradients": {name: None if p.grad is None else (id(p.grad), p.grad.clone())
                      for name, p in model.named_parameters()},
        "hooks": {name: [list(getattr(module, kind)) for kind in HOOKS] for name, module in model.named_modules()},
        "tensor hooks": {name: p._backward_hooks for name, p in model.named_parameters()},
        "modules": [(name, id(module)) for name, module in model.named_modules()],
        "attributes": {name: sorted(vars(module)) for name, module in model.named_modules()},
        "random": torch.get_rng_state(),
    }


def same(before, after):
    if isinstance(before, torch.Tensor):
        return torch.equal(before, after)
    if isinstance(before, dict):
        return before.keys() == after.keys() and all(same(before[key], after[key]) for key in before)
    if isinstance(before, (list, tuple)):
        return len(before) == len(after) and all(same(a, b) for a, b in zip(before, after, strict=True))
    return before == after


def assert_left_as_found(before, model):
    after = state(model)
    changed = [part for part in before if part != "tensors" and not same(before[part], after[part])]
    assert not changed, f"changed: {changed}"
    for name, (identity, _, value) in before["tensors"].items():
        assert after["tensors"][name][0] == identity, f"{name} is another tensor"
        assert torch.equal(after["tensors"][name][2], value), f"{name} has other values"


def troubled(model):
    """Modes by turns, gradients on some parameters, a hook: nothing as `model.train()` would leave it."""
    for number, module in enumerate(model.modules()):
        module.training = number % 2 == 0
    for number, parameter in enumerate(model.parameters()):
        parameter.grad = torch.full_like(parameter, 0.5) if number % 2 == 0 else None
    next(model.children()).register_forward_hook(lambda module, inputs, output: None)
    return model


@pytest.mark.parametrize("labels", ["exact", "sampled", "empirical", "batched"])
@pytest.mark.parametrize("name", STATEFUL)
def test_a_model_is_left_as_found(name, labels):
    case = CASES[name]
    require(case)
    model, batch = case.build()
    troubled(model)
    kept = copy.deepcopy(batch)
    before = state(model)
    fisher.diagonal(model, cut(batch, 4), labels=labels, likelihood=LIKELIHOODS[case.meaning.kind](case.meaning))
    assert_left_as_found(before, model)
    assert same(kept, batch), "the data was changed"


class Failing(nn.Module):
    """Raises in its n-th forward pass."""

    def __init__(self, inner, passes):
        super().__init__()
        self.inner, self.left = inner, [passes]

    def forward(self, x):
        self.left[0] -= 1
        if self.left[0] == 0:
            raise FloatingPointError("the forward pass failed")
        return self.inner(x)


@pytest.mark.parametrize("name", ["residual_in_place", "dropout", "class_token", "spectral_norm"])
@pytest.mark.parametrize("passes", [1, 2, 3, 4, 5, 8])
def test_a_model_is_left_as_found_after_an_exception(name, passes):
    inner, batch = CASES[name].build()
    model = troubled(Failing(inner, passes))
    before = state(model)
    with pytest.raises(FloatingPointError, match="the forward pass failed"):
        fisher.diagonal(model, cut(batch, 3), labels="empirical")
    assert_left_as_found(before, model)


def test_a_model_is_left_as_found_after_broken_data():
    model, batch = CASES["dropout"].build()
    troubled(model)
    before = state(model)

    def loader():
        yield from cut(batch, 3)[:1]
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        fisher.diagonal(model, loader())
    assert_left_as_found(before, model)


def test_the_watch_itself_notices():
    model, _ = CASES["batch_norm"].build()
    before = state(model)
    model[1].running_mean.add_(1)
    with pytest.raises(AssertionError, match=r"1\.running_mean has other values"):
        assert_left_as_found(before, model)
    before = state(model)
    model.train()
    torch.rand(1)
    with pytest.raises(AssertionError, match=r"modes.*random"):
        assert_left_as_found(before, model)


def test_the_estimate_shares_no_memory_with_the_model_and_needs_no_graph():
    model, batch = CASES["mlp"].build()
    found = fisher.diagonal(model, cut(batch, 3))
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    assert not any(value.requires_grad or value.untyped_storage().data_ptr() in own for value in found.values())


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_estimate_is_laid_out_as_the_model(layout):
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()).to(memory_format=layout)
    found = fisher.diagonal(model, [(torch.randn(4, 2, 6, 6), torch.tensor([0, 1, 2, 0]))])
    assert all(found[name].stride() == value.stride() for name, value in model.named_parameters())


def test_it_works_under_no_grad():
    model, batch = CASES["mlp"].build(torch.float64)
    plain = fisher.diagonal(model, cut(batch, 3))
    with torch.no_grad():
        again = fisher.diagonal(model, cut(batch, 3))
    assert all(torch.equal(plain[name], again[name]) for name in plain)
    assert plain.trace() > 0


def test_recurrent_layers_run_without_cudnn_and_it_is_back_afterwards():
    """On a GPU cuDNN's LSTM has no backward pass in eval mode."""
    seen = []

    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm, self.head = nn.LSTM(3, 4, batch_first=True), nn.Linear(4, 2)

        def forward(self, x):
            seen.append(torch.backends.cudnn.enabled)
            return self.head(self.lstm(x)[0][:, -1])

    before = torch.backends.cudnn.enabled
    fisher.diagonal(Recurrent(), [(torch.randn(2, 5, 3), torch.tensor([0, 1]))], labels="empirical")
    assert set(seen) == {False}
    assert torch.backends.cudnn.enabled == before
