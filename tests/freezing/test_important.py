"""The layers with the most mass are frozen: which, in which order, and never the head by accident."""

import logging

import pytest
import torch
from torch import nn

from forgetting import fisher
from forgetting.curvature import Diagonal, Identity
from forgetting.freezing import freeze_important
from tests.freezing.models import MODELS, Reversed, Tied, learning


def chain(layers=5):
    return nn.Sequential(*(nn.Linear(2, 2) for _ in range(layers)))


def matrix(*masses):
    """Each layer six times its mass: four on its weight, two on its bias."""
    return Diagonal({f"{place}.{name}": torch.full(shape, mass) for place, mass in enumerate(masses)
                     for name, shape in (("weight", (2, 2)), ("bias", (2,)))})


def frozen_layers(handle):
    return sorted({int(name.split(".")[0]) for name in handle.names})


@pytest.mark.parametrize(("masses", "share", "expected"), [
    ([1.0, 4.0, 2.0, 3.0, 0.0], 0.4, [1]),
    ([1.0, 4.0, 2.0, 3.0, 0.0], 0.41, [1, 3]),
    ([1.0, 4.0, 2.0, 3.0, 0.0], 0.9, [1, 2, 3]),
    ([1.0, 4.0, 2.0, 3.0, 0.0], 1.0, [0, 1, 2, 3]),
    ([1.0, 4.0, 2.0, 3.0, 1000.0], 0.4, [1]),  # the last layer always learns, and its mass does not count
    ([1.0, 1.0, 1.0, 1.0, 0.0], 0.5, [0, 1]),  # equal mass: the one nearer to the input first
    ([0.0, 2.0, 0.0, 1.0, 0.0], 1.0, [1, 3]),  # without mass: never
    ([0.0, 2.0, 0.0, 1.0, 0.0], 1e-9, [1]),
])
def test_the_fewest_layers_that_hold_the_share(masses, share, expected):
    model = chain()
    with freeze_important(model, matrix(*masses), share) as handle:
        assert frozen_layers(handle) == expected
        assert {name for name, _ in model.named_parameters()} - learning(model) == set(handle.names)
    assert len(learning(model)) == 10


def test_rounding_does_not_keep_the_whole_from_being_reached():
    masses = [0.1 * (place + 1) for place in range(40)] + [0.0]
    with freeze_important(chain(41), matrix(*masses), 1.0) as handle:
        assert frozen_layers(handle) == list(range(40))


def test_what_is_last_is_what_runs_last():
    model = Reversed()
    values = Diagonal({name: torch.ones_like(value) for name, value in model.named_parameters()})
    with freeze_important(model, values, 1.0, inputs=torch.zeros(1, 3)):
        assert learning(model) == {"head.weight", "head.bias"}
    with freeze_important(model, values, 1.0):
        assert learning(model) == {"body.weight", "body.bias"}


@pytest.mark.parametrize("keep", ["head", "embedding.weight", ["head.*"], lambda name: name == "embedding.weight"])
def test_a_head_that_is_tied_is_kept_by_name(keep):
    model, inputs = MODELS["tied"]()
    values = Diagonal({name: torch.ones_like(value) for name, value in model.named_parameters()})
    with freeze_important(model, values, 0.01, inputs=inputs) as handle:
        assert handle.names == ("embedding.weight",)
    with freeze_important(model, values, 1.0, keep=keep, inputs=inputs):
        assert learning(model) == {"embedding.weight"}


def test_a_matrix_without_the_new_head_and_one_that_is_constant():
    model = chain(3)
    known = matrix(1.0, 2.0)
    with freeze_important(model, known, 0.5) as handle:
        assert frozen_layers(handle) == [1]
    sizes = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 9), nn.Linear(9, 2))
    equal = Identity({name: 2.0 for name, _ in sizes.named_parameters()})
    with freeze_important(sizes, equal, 0.5) as handle:
        assert frozen_layers(handle) == [1]


def test_with_a_real_fisher_of_a_model_with_norms_and_blocks():
    pytest.importorskip("torchvision")
    model, inputs = MODELS["resnet"]()
    found = fisher.diagonal(model, [(inputs, torch.tensor([0, 1, 2, 0]))], labels="empirical")
    mass = {name: float(value.double().sum()) for name, value in found.items()}
    with freeze_important(model, found, 0.7, inputs=inputs) as handle:
        part = sum(mass[name] for name in handle.names) / sum(
            value for name, value in mass.items() if not name.startswith("fc."))
        assert part >= 0.7
        assert {"fc.weight", "fc.bias"} <= learning(model)
        blocks = {name.rpartition(".")[0].rpartition(".")[0] for name in handle.names if name.startswith("layer")}
        assert not any(name.startswith(f"{block}.") for block in blocks for name in learning(model))


def test_what_was_frozen_is_logged(caplog):
    with caplog.at_level(logging.INFO, "forgetting"):
        freeze_important(chain(), matrix(1.0, 4.0, 2.0, 3.0, 0.0), 0.5)
    assert "2 of 5 layers are frozen, with 70.0 % of the mass: 1.weight, 1.bias, 3.weight, 3.bias" in caplog.text


@pytest.mark.parametrize(("call", "words"), [
    (lambda: freeze_important(chain(), matrix(1.0), 0.0), r"share=0.0 must lie in \(0, 1\]"),
    (lambda: freeze_important(chain(), matrix(1.0), 1.1), "share=1.1"),
    (lambda: freeze_important(chain(), matrix(0.0, 0.0), 0.5), "no mass on any of the 4 layers"),
    (lambda: freeze_important(chain(1), matrix(1.0), 0.5), "no mass on any of the 0 layers"),
    (lambda: freeze_important(chain(2), matrix(0.0, 1.0), 0.5), "covers only what always learns"),
    (lambda: freeze_important(chain(2), matrix(1.0, 1.0, 1.0), 0.5), "covers '2.weight', which this Sequential"),
    (lambda: freeze_important(Tied(), Diagonal({"last.bias": torch.ones(3)})), "'last.bias' of shape \\(3,\\), the m"),
    (lambda: freeze_important(chain(), matrix(1.0), keep="5"), "'5' matches none"),
    (lambda: freeze_important(nn.ReLU(), matrix(1.0)), "has no parameters"),
    (lambda: freeze_important(chain(2).requires_grad_(False), matrix(1.0)), "nothing left to learn"),
])
def test_bad_input(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_what_is_no_matrix_raises():
    with pytest.raises(TypeError, match="takes a matrix of forgetting.curvature.*not a dict"):
        freeze_important(chain(), {"0.weight": torch.ones(2, 2)})
