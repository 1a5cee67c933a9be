"""What a penalty on the product cannot hold, or is asked to do in the wrong order, is told and never passed over."""

import warnings

import pytest
import torch
from torch import nn

from forgetting import fisher
from forgetting.adapters import ProductEWC, lora
from forgetting.curvature import Diagonal
from tests.adapters.models import mixed
from tests.adapters.test_product import STRENGTH, batches, learned

peft = pytest.importorskip("peft", reason="the extra 'peft' is not installed")


def test_what_is_not_covered_is_told():
    model = mixed()
    whole = fisher.diagonal(model, batches())
    regularizer, some = ProductEWC(STRENGTH), learned(model, parameters="body.*")
    regularizer.consolidate(model, curvature=whole.restricted(set(whole) - {"point.weight"}))
    with pytest.raises(ValueError, match="no adapters whose product could be held"):
        regularizer.penalty(model)
    with lora(model, rank=2):
        with pytest.raises(ValueError, match="adapters change point.weight, which F does not cover"):
            regularizer.penalty(model)
        assert some.penalty(model).item() == 0
        with pytest.raises(ValueError, match="has adapters, the first at 'stem'.*merge them"):
            regularizer.consolidate(model, batches())
    with lora(model, rank=2, modules="stem"), pytest.raises(ValueError, match="adapters change stem.weight"):
        some.penalty(model)
    with pytest.raises(ValueError, match="got neither"):
        regularizer.consolidate(model)
    with pytest.raises(ValueError, match="got both"):
        regularizer.consolidate(model, batches(), curvature=regularizer.curvature)
    with pytest.raises(ValueError, match="covers 'other'.* which the model does not have"):
        regularizer.consolidate(model, curvature=Diagonal({"other": torch.ones(2, 2)}))
    with pytest.raises(ValueError, match=r"'head.weight' .*\(2, 2\), which the model has it with \(3, 4\)"):
        regularizer.consolidate(model, curvature=Diagonal({"head.weight": torch.ones(2, 2)}))
    with pytest.raises(ValueError, match="no weight with two dimensions"):
        regularizer.consolidate(model, curvature=Diagonal({"head.bias": torch.ones(3)}))
    with pytest.raises(TypeError, match="takes a Diagonal.* not a Kronecker"):
        regularizer.consolidate(model, curvature=fisher.kronecker(model, batches()))
    with pytest.raises(ValueError, match="matches none"):
        learned(model, parameters="tail.*")
    with pytest.raises(ValueError, match="labels='true' does not exist"):
        ProductEWC(1.0, labels="true")
    with pytest.raises(ValueError, match="decay is 2"):
        ProductEWC(1.0, decay=2)


@pytest.mark.parametrize(("settings", "words"), [
    ({"use_dora": True}, "a variant such as DoRA"), ({"lora_bias": True}, "changes the bias too"),
    ({"target_modules": ["table", "body"]}, "is an embedding's"),
])
def test_adapters_whose_change_is_not_one_product_are_refused(settings, words):
    model = nn.ModuleDict({"table": nn.Embedding(4, 3), "body": nn.Linear(3, 3), "head": nn.Linear(3, 2)})
    regularizer = ProductEWC(1.0)
    regularizer.consolidate(model, curvature=Diagonal({name: torch.ones_like(p) for name, p in
                                                       model.named_parameters()}))
    wrapped = peft.get_peft_model(model, peft.LoraConfig(**{"r": 2, "target_modules": ["body"], **settings}))
    with pytest.raises(ValueError, match=f"{words}, so that the weight's change is not one product"):
        regularizer.penalty(wrapped)


def test_two_adapters_at_one_place_are_refused():
    model = mixed()
    regularizer = learned(model)
    wrapped = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["point"]))
    wrapped.add_adapter("second", peft.LoraConfig(r=2, target_modules=["point"]))
    with pytest.raises(ValueError, match="is one of 2"):
        regularizer.penalty(wrapped)


def test_a_matrix_of_zeros_warns():
    model = mixed()
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.copy_(torch.tensor([1e4, 0.0, 0.0]))
    with pytest.warns(UserWarning, match="inert"):
        learned(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        learned(mixed())
