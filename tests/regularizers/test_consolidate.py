"""What is remembered, of which weights, and what happens when the model is another one afterwards."""

import pytest
import torch
from torch import nn

from forgetting.curvature import Diagonal, Identity
from forgetting.regularizers import EWC, L2SP
from tests.regularizers.small import Weights, importances


class Network(nn.Module):
    """A backbone and a head."""

    def __init__(self, classes=3):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.backbone = nn.Linear(4, 5)
            self.head = nn.Linear(5, classes)

    def forward(self, inputs):
        return self.head(torch.tanh(self.backbone(inputs)))


def data(classes=3):
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(6, 4, generator=generator), torch.arange(6) % classes)]


METHODS = {"ewc": lambda **s: EWC(1.0, **s), "separate": lambda **s: EWC(1.0, anchors="separate", **s),
           "l2sp": lambda **s: L2SP(1.0, **s)}
every = pytest.mark.parametrize("method", METHODS)


@every
def test_f11_the_anchor_never_aliases_the_weights(method):
    model = Network()
    regularizer = METHODS[method]()
    regularizer.consolidate(model, data())
    kept = {name: anchor.clone() for name, anchor in regularizer.consolidated.anchor.items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    model(data()[0][0]).sum().backward()
    optimizer.step()
    for name, anchor in regularizer.consolidated.anchor.items():
        assert torch.equal(anchor, kept[name])
        assert anchor.data_ptr() != model.get_parameter(name).data_ptr()
    assert regularizer.penalty(model).item() > 0


@every
def test_f8_a_pretrained_model_is_protected_from_the_first_step(method):
    model = Network()
    regularizer = METHODS[method]()
    regularizer.consolidate(model, data())
    regularizer.strength = 1e4
    pretrained = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    free = Network()
    free.load_state_dict(model.state_dict())

    def distance(network):
        return sum((w - pretrained[n]).square().sum().item() for n, w in network.named_parameters())

    for network, pulled in ((model, True), (free, False)):
        optimizer = torch.optim.SGD(network.parameters(), lr=0.5)
        handle = regularizer.attach(network, optimizer, mode="proximal") if pulled else None
        network(data()[0][0]).square().sum().backward()
        optimizer.step()
        if handle:
            handle.remove()
    assert distance(model) < 0.01 * distance(free)


@every
def test_a_new_head_is_not_held_and_the_old_one_may_be_left_out(method):
    model = Network()
    regularizer = METHODS[method](parameters="backbone.*")
    regularizer.consolidate(model, data())
    model.head = nn.Linear(5, 7)
    assert regularizer.penalty(model).item() == 0
    assert set(regularizer.pull(model)) == {"backbone.weight", "backbone.bias"}
    model.backbone.weight.data.add_(1.0)
    assert regularizer.penalty(model).item() > 0


@every
@pytest.mark.parametrize("change", ["vanished", "renamed", "reshaped"])
def test_a_parameter_that_changed_is_named_with_the_way_out(method, change):
    model = Network()
    regularizer = METHODS[method]()
    regularizer.consolidate(model, data())
    state = regularizer.state_dict()
    head = model.head
    del model.head
    if change == "renamed":
        model.classifier = head
    if change == "reshaped":
        model.head = nn.Linear(5, 7)
    words = r"'head.weight'.*" + (r"\(3, 5\).*\(7, 5\)" if change == "reshaped" else "does not have") + ".*parameters="
    with pytest.raises(ValueError, match=words):
        regularizer.penalty(model)
    with pytest.raises(ValueError, match=words):
        regularizer.pull(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    with regularizer.attach(model, optimizer, mode="gradient"), pytest.raises(ValueError, match=words):
        optimizer.step()
    if method != "l2sp":
        matrix = Diagonal({"backbone.bias": torch.ones(5)})
        with pytest.raises(ValueError, match=words):
            regularizer.consolidate(model, curvature=matrix)
    assert regularizer.consolidated.tasks == state["tasks"]
    # The way out that the error names works without the source data.
    saved = METHODS[method](parameters="backbone.*")
    saved.load_state_dict(state)
    model.backbone.weight.data.add_(1.0)
    assert saved.penalty(model).item() > 0


def test_a_curvature_from_a_file_serves_without_data(tmp_path):
    model = Network()
    matrix = importances(model, 1)
    matrix.save(tmp_path / "fisher.safetensors")
    ewc = EWC(2.0)
    ewc.consolidate(model, curvature=Diagonal.load(tmp_path / "fisher.safetensors"))
    model.head.bias.data.add_(3.0)
    assert ewc.penalty(model).item() == pytest.approx(9 * float(matrix["head.bias"].sum()), rel=1e-5)
    narrow = EWC(2.0, parameters="backbone.*")
    narrow.consolidate(model, curvature=matrix)
    assert set(narrow.consolidated.anchor) == {"backbone.weight", "backbone.bias"}


@pytest.mark.parametrize(("matrix", "words"), [
    (Diagonal({"backbone.bias": torch.ones(5), "tail.bias": torch.ones(2)}), "'tail.bias'.*does not have.*parameters="),
    (Diagonal({"backbone.bias": torch.ones(4)}), r"'backbone.bias'.*\(4,\).*\(5,\).*parameters="),
])
def test_a_curvature_of_another_model_is_refused_and_nothing_is_lost(matrix, words):
    model = Network()
    ewc = EWC(1.0)
    ewc.consolidate(model, curvature=importances(model, 1))
    before = ewc.consolidated
    with pytest.raises(ValueError, match=words):
        ewc.consolidate(model, curvature=matrix)
    assert ewc.consolidated is before


def test_data_and_curvature_both_or_neither():
    model = Network()
    ewc = EWC(1.0)
    with pytest.raises(ValueError, match="data= or curvature=, not both"):
        ewc.consolidate(model, data(), curvature=importances(model, 1))
    with pytest.raises(ValueError, match=r"needs data= .* or curvature="):
        ewc.consolidate(model)
    with pytest.raises(TypeError, match=r"such as Diagonal.* not a dict"):
        ewc.consolidate(model, curvature={"head.bias": torch.ones(3)})
    assert ewc.consolidated is None


def test_any_matrix_serves_where_only_the_last_anchor_counts():
    model = Network()
    ewc = EWC(2.0)
    ewc.consolidate(model, curvature=Identity({"head.bias": 3.0}))
    model.head.bias.data.add_(1.0)
    assert ewc.penalty(model).item() == pytest.approx(9.0)
    twin = EWC(2.0)
    twin.load_state_dict(ewc.state_dict())
    assert twin.penalty(model).item() == pytest.approx(9.0)


def test_an_importance_in_half_precision_is_kept_in_float32():
    model = Weights(a=torch.zeros(1, dtype=torch.bfloat16))
    ewc = EWC(1.0)
    for _ in range(300):
        ewc.consolidate(model, curvature=Diagonal({"a": torch.ones(1, dtype=torch.bfloat16)}))
    assert ewc.consolidated.curvature["a"].item() == 300.0
    assert ewc.consolidated.anchor["a"].dtype == torch.float32


def test_a_frozen_weight_is_held_again_once_it_is_free():
    model = Network()
    for method in METHODS.values():
        regularizer = method()
        regularizer.consolidate(model, data())
        model.backbone.requires_grad_(False)
        assert regularizer.penalty(model).requires_grad
        model.backbone.weight.data.add_(1.0)
        regularizer.penalty(model).backward()
        assert model.backbone.weight.grad is None
        model.backbone.requires_grad_(True)
        assert regularizer.penalty(model).item() > 0


def test_a_model_without_trainable_parameters_is_refused():
    model = Network().requires_grad_(False)
    with pytest.raises(ValueError, match="requires a gradient"):
        EWC(1.0).consolidate(model, data())


@pytest.mark.parametrize(("settings", "words"), [
    ({"decay": -0.1}, r"decay is -0.1.*\[0, 1\]"), ({"decay": 1.5}, "decay is 1.5"),
    ({"decay": float("nan")}, "decay is nan"),
    ({"anchors": "last"}, "anchors='last' does not exist: choose one of latest, separate"),
])
def test_settings_are_checked_at_once(settings, words):
    with pytest.raises(ValueError, match=words):
        EWC(1.0, **settings)


def test_a_penalty_can_be_differentiated_twice():
    model = Weights(a=torch.randn(3, dtype=torch.float64))
    ewc = EWC(2.0)
    ewc.consolidate(model, curvature=Diagonal({"a": torch.tensor([1.0, 2.0, 0.0], dtype=torch.float64)}))
    model.a.data.add_(1.0)
    gradient, = torch.autograd.grad(ewc.penalty(model).square(), model.a, create_graph=True)
    hessian = torch.stack([torch.autograd.grad(entry, model.a, retain_graph=True)[0] for entry in gradient])
    pull = torch.tensor([2.0, 4.0, 0.0], dtype=torch.float64)
    torch.testing.assert_close(hessian, 2 * torch.outer(pull, pull) + 2 * 3.0 * torch.diag(pull))
