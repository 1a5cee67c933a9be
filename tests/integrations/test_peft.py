"""Regularizers and peft: what was learned of the bare model goes on in the model that peft wraps, or says why not."""

import copy

import pytest
import torch

from forgetting import EWC, L2SP
from forgetting.adapters import ProductEWC
from forgetting.integrations.transformers import as_trainer_callback
from forgetting.parameters import named
from tests.house.sources import ROOT
from tests.house.test_pages import blocks
from tests.integrations.loops import gpt, held, sequences
from tests.integrations.test_trainer import own_chance, trainer  # noqa: F401

peft = pytest.importorskip("peft", reason="the extra 'peft' is not installed")
FULL = ["transformer.h.0.ln_1.weight", "transformer.h.0.mlp.c_fc.weight"]


def wrapped(model, **settings):
    """A model in peft's, with an adapter at the attention."""
    settings = peft.LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True, task_type="CAUSAL_LM", **settings)
    return peft.get_peft_model(model, settings)


def test_names_are_those_of_the_bare_model():
    bare = gpt()
    inside = [name for name in named(wrapped(copy.deepcopy(bare)), trainable=False) if "lora_" not in name]
    assert [name.replace(".base_layer", "") for name in inside] == list(named(bare, trainable=False))


def test_what_the_bare_model_taught_holds_the_weights_that_peft_leaves_and_back():
    bare = gpt()
    l2sp = L2SP(1.0, parameters=FULL)
    l2sp.consolidate(bare)
    inside = wrapped(bare)
    assert l2sp.penalty(inside).item() == 0
    with torch.no_grad():
        inside.base_model.model.transformer.h[0].ln_1.weight.add_(1.0)
    assert l2sp.penalty(inside).item() == pytest.approx(0.5 * 16)
    l2sp.consolidate(inside)
    plain = inside.unload()
    assert l2sp.penalty(plain).item() == 0


def test_a_head_that_learns_beside_the_adapters_is_held_in_a_trainer(tmp_path):
    """``ln_f`` is unfrozen beside the adapters: the callback pulls it, and the adapters learn freely."""
    bare = gpt()
    ends, name = [], "transformer.ln_f.weight"
    anchor = bare.get_parameter(name).detach().clone()
    for strength in (0.0, 30.0):
        model = copy.deepcopy(bare)
        l2sp = L2SP(strength, parameters=[name])
        l2sp.consolidate(model)
        inside = wrapped(model)
        inside.base_model.model.get_parameter(name).requires_grad_()
        trainer(inside, tmp_path, [as_trainer_callback(l2sp)], examples=sequences(40), max_steps=10,
                optimizer=lambda model: torch.optim.SGD([weight for weight in model.parameters()
                                                         if weight.requires_grad], lr=0.02, momentum=0.9)).train()
        ends.append(float((inside.base_model.model.get_parameter(name) - anchor).detach().norm()))
    assert ends[1] < 0.5 * ends[0]


def test_a_weight_that_an_adapter_stands_around_is_named_with_the_way_out():
    bare = gpt()
    ewc = held(bare)
    inside = wrapped(bare)
    with pytest.raises(ValueError, match=r"'transformer.h.0.attn.c_attn.weight'.*adapter.*ProductEWC"):
        ewc.penalty(inside)


def test_the_product_of_adapters_is_held_in_peft():
    bare = gpt()
    product = ProductEWC(1.0)
    product.consolidate(bare, curvature=held(bare).consolidated.curvature)
    inside = wrapped(bare)
    assert product.penalty(inside).item() == 0
    with torch.no_grad():
        inside.base_model.model.transformer.h[0].attn.c_attn.lora_B["default"].weight.add_(0.1)
    assert product.penalty(inside).item() > 0


def test_a_state_goes_through_a_file_between_the_two(tmp_path):
    bare = gpt()
    ewc = EWC(1.0, parameters=FULL)
    ewc.consolidate(bare, curvature=held(bare).consolidated.curvature)
    torch.save(ewc.state_dict(), tmp_path / "ewc.pt")
    again = EWC(1.0, parameters=FULL)
    again.load_state_dict(torch.load(tmp_path / "ewc.pt", weights_only=True))
    inside = wrapped(bare)
    with torch.no_grad():
        inside.base_model.model.transformer.h[0].ln_1.weight.add_(1.0)
    assert again.penalty(inside).item() == pytest.approx(
        0.5 * float(ewc.consolidated.curvature["transformer.h.0.ln_1.weight"].sum()))


def test_the_page_runs():
    path, namespace = ROOT / "docs" / "integrations" / "peft.md", {"__name__": "page"}
    found = blocks(path.read_text(encoding="utf-8"), "python")
    for line, code, _ in found:
        exec(compile("\n" * (line - 1) + code, str(path), "exec"), namespace)
    assert found
