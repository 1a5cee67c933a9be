"""A regularizer of one's own: thirty lines, two methods, everything else comes with the base."""

import io

import pytest
import torch
from torch import nn

from forgetting import fisher
from forgetting.curvature import Diagonal
from forgetting.parameters import named, snapshot
from forgetting.regularizers import EWC, QuadraticRegularizer, Regularizer


class Mine(Regularizer):
    """Keeps the outputs on the examples it was shown, and the weights that matter to them."""

    def __init__(self, strength=1.0):
        super().__init__(strength)
        self.inputs = self.outputs = self.matrix = self.anchor = None
        self.log = {"tasks": 0, "note": "none", "shapes": [(1, 2)]}

    def consolidate(self, model, data=None, *, outputs=None, curvature=None):
        self.inputs = torch.cat([inputs for inputs, _ in data])
        self.outputs = model(self.inputs).detach()
        self.matrix = curvature or fisher.diagonal(model, data, outputs=outputs)
        self.anchor = snapshot(named(model))
        self.log["tasks"] += 1

    def penalty(self, model, inputs=None, outputs=None):
        if self.anchor is None:
            return self.zero(model)
        delta = {name: weight - self.anchor[name] for name, weight in named(model).items()}
        return self.strength * ((model(self.inputs) - self.outputs).square().mean() + self.matrix.quadratic(delta))


DATA = [(torch.eye(4), torch.tensor([0, 1, 2, 0]))]


def test_two_methods_are_enough():
    model = nn.Linear(4, 3)
    mine = Mine(2.0)
    assert mine.penalty(model).item() == 0
    mine.consolidate(model, DATA)
    model.weight.data.add_(1.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with mine.attach(model, optimizer):
        before = mine.penalty(model)
        before.backward()
        optimizer.step()
    assert 0 < mine.penalty(model).item() < before.item()


def test_its_attributes_are_its_state():
    model = nn.Linear(4, 3)
    mine, again = Mine(2.0), Mine(5.0)
    mine.consolidate(model, DATA)
    file = io.BytesIO()
    torch.save(mine.state_dict(), file)
    file.seek(0)
    again.load_state_dict(torch.load(file, weights_only=True))
    model.weight.data.add_(1.0)
    assert again.strength == 5.0
    assert again.penalty(model).item() == pytest.approx(2.5 * mine.penalty(model).item())
    assert isinstance(again.matrix, Diagonal)
    assert again.log == {"tasks": 1, "note": "none", "shapes": [(1, 2)]}
    before = again.penalty(model)
    mine.anchor["weight"].add_(9.0)
    mine.log["tasks"] = 7
    assert torch.equal(again.penalty(model), before)
    assert again.log["tasks"] == 1


def test_a_state_and_its_regularizer_share_no_memory():
    mine = Mine()
    mine.consolidate(nn.Linear(4, 3), DATA)
    state = mine.state_dict()
    kept = state["anchor"]["weight"].clone()
    mine.anchor["weight"].add_(1.0)
    assert torch.equal(state["anchor"]["weight"], kept)


def test_what_no_file_can_hold_is_named():
    mine = Mine()
    mine.log["teacher"] = nn.Linear(1, 1)
    with pytest.raises(TypeError, match=r"log\['teacher'\] is a Linear, which no state_dict holds.*_learned"):
        mine.state_dict()


@pytest.mark.parametrize("mode", ["gradient", "proximal"])
def test_a_mode_that_a_class_lacks_is_refused(mode):
    model = nn.Linear(1, 1)
    with pytest.raises(ValueError, match=f"Mine has no closed-form pull, so mode='{mode}' is not possible; .* loss"):
        Mine().attach(model, torch.optim.SGD(model.parameters(), lr=1.0), mode=mode)


def test_an_unknown_mode_gets_the_nearest():
    model = nn.Linear(1, 1)
    with pytest.raises(ValueError, match=r"mode='proximate' does not exist: .* did you mean 'proximal'"):
        EWC(1.0).attach(model, torch.optim.SGD(model.parameters(), lr=1.0), mode="proximate")


def test_what_is_no_optimizer_is_refused():
    with pytest.raises(TypeError, match=r"takes a torch.optim.Optimizer, not a Linear"):
        EWC(1.0).attach(nn.Linear(1, 1), nn.Linear(1, 1), mode="gradient")


def test_a_penalty_that_no_loop_can_call_is_refused_where_it_is_written():
    with pytest.raises(TypeError, match=r"Own.penalty takes \(self, model\).*expected \(self, model, inputs=None"):
        class Own(Regularizer):
            def consolidate(self, model, data=None, *, outputs=None, curvature=None):
                pass

            def penalty(self, model):
                return self.zero(model)


def test_an_estimate_that_is_no_matrix_is_named():
    class Own(QuadraticRegularizer):
        def estimate(self, model, data=None, outputs=None):
            return {"weight": torch.ones(1, 2)}

    with pytest.raises(TypeError, match="Own.estimate returned a dict, expected a matrix of forgetting.curvature"):
        Own(1.0).consolidate(nn.Linear(2, 1), [(torch.ones(1, 2), torch.ones(1, 1))])
