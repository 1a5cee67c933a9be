"""L2-SP: relative strengths a group, and heads that have no starting point."""

import pytest
import torch
from torch import nn

from forgetting.curvature import Diagonal
from forgetting.regularizers import L2SP
from tests.regularizers.small import Weights


def three():
    return Weights(a=torch.ones(2), b=torch.ones(3), c=torch.ones(4))


def test_the_penalty_is_the_papers():
    model = three()
    l2sp = L2SP(strength=3.0)
    l2sp.consolidate(model)
    model.a.data.add_(2.0)
    assert l2sp.penalty(model).item() == 0.5 * 3.0 * 2 * 4.0


def test_groups_scale_and_the_first_pattern_counts():
    model = three()
    l2sp = L2SP(strength=2.0, groups={"a": 5.0, "[ab]": 0.5, "c": 0.0})
    l2sp.consolidate(model)
    for weight in model.parameters():
        weight.data.add_(1.0)
    assert {name: pull[0].item() for name, pull in l2sp.pull(model).items()} == {"a": 10.0, "b": 1.0, "c": 0.0}


def test_a_new_head_is_pulled_to_zero_by_its_share():
    model = three()
    l2sp = L2SP(strength=2.0, head=0.25, parameters=["a", "b"])
    l2sp.consolidate(model)
    model.register_parameter("head", nn.Parameter(torch.full((2,), 4.0)))
    model.register_parameter("frozen", nn.Parameter(torch.full((2,), 4.0), requires_grad=False))
    assert l2sp.penalty(model).item() == 0.5 * 2.0 * 0.25 * (4 * 1.0 + 2 * 16.0)
    assert {n: p[0].item() for n, p in l2sp.pull(model).items()} == {"a": 0.0, "b": 0.0, "c": 0.5, "head": 2.0}
    l2sp.penalty(model).backward()
    assert model.head.grad.tolist() == [2.0, 2.0]
    assert set(l2sp.state_dict()["anchor"]) == {"a", "b"}


def test_what_was_frozen_is_anchored_too():
    model = three()
    model.a.requires_grad_(False)
    l2sp = L2SP(strength=1.0, head=1.0)
    l2sp.consolidate(model)
    model.a.requires_grad_(True)
    assert l2sp.penalty(model).item() == 0.0


def test_a_second_consolidation_moves_the_anchor_and_takes_in_the_head():
    model = three()
    l2sp = L2SP(strength=1.0)
    l2sp.consolidate(model)
    del model.c
    model.register_parameter("head", nn.Parameter(torch.ones(2)))
    model.a.data.add_(1.0)
    l2sp.consolidate(model)
    assert l2sp.consolidated.tasks == 2
    assert l2sp.penalty(model).item() == 0.0
    model.head.data.add_(1.0)
    assert l2sp.penalty(model).item() == 1.0


@pytest.mark.parametrize("settings", [{"head": -1.0}, {"groups": {"a": float("inf")}}, {"groups": {"a": float("nan")}}])
def test_relative_strengths_are_finite_and_not_negative(settings):
    with pytest.raises(ValueError, match=r"relative strength of '(a|head)'"):
        L2SP(1.0, **settings)


def test_a_misspelt_group_raises_and_nothing_is_lost():
    model = three()
    l2sp = L2SP(1.0)
    l2sp.consolidate(model)
    l2sp.groups = {"layer4.*": 0.1}
    with pytest.raises(ValueError, match=r"'layer4.*' matches none"):
        l2sp.consolidate(model)
    assert l2sp.consolidated is not None


def test_a_matrix_of_ones_own_is_refused():
    with pytest.raises(ValueError, match=r"takes no curvature=.*groups="):
        L2SP(1.0).consolidate(three(), curvature=Diagonal({"a": torch.ones(2)}))
