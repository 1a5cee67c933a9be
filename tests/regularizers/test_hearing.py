"""What a penalty on features hears is what the modules gave out, of the model it is asked about."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from forgetting.regularizers import KL, FeatureL2, LwF


class Convolutions(nn.Module):
    """Two convolutions, each behind a ReLU that may overwrite what it receives."""

    def __init__(self, *, inplace):
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 3, 3), nn.Conv2d(3, 2, 3)
        self.act = nn.ReLU(inplace=inplace)
        self.head = nn.Linear(2, 3)

    def forward(self, images):
        return self.head(self.act(self.second(self.act(self.first(images)))).mean((2, 3)))


def convolutions(*, inplace):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Convolutions(inplace=inplace).double()


def images():
    return torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def moved(model):
    with torch.no_grad():
        model.second.weight.add_(0.3)
    return model


@pytest.mark.parametrize("attached", [False, True])
@pytest.mark.parametrize("modules", ["first", "second"])
def test_what_a_later_layer_overwrites_does_not_change_a_feature(modules, attached):
    found = []
    for inplace in (False, True):
        model, penalty, inputs = convolutions(inplace=inplace), FeatureL2(2.0, modules=modules), images()
        penalty.consolidate(model)
        moved(model)
        if attached:
            with penalty.attach(model, torch.optim.SGD(model.parameters(), lr=0.1)):
                for _ in range(2):  # from the second pass on it listens
                    value = penalty.penalty(model, inputs, model(inputs))
        else:
            value = penalty.penalty(model, inputs)
        gradient = torch.autograd.grad(value, model.second.weight, allow_unused=True)[0]
        found.append((value.item(), None if gradient is None else gradient))
    assert (found[0][0] > 0) == (modules == "second")
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-12)
    if modules == "second":
        torch.testing.assert_close(found[1][1], found[0][1])


def test_a_twin_is_not_taken_for_the_model_that_was_heard():
    model, penalty, inputs = convolutions(inplace=False), FeatureL2(2.0, modules="second"), images()
    penalty.consolidate(model)
    twin = copy.deepcopy(model)
    moved(model)
    with penalty.attach(model, torch.optim.SGD(model.parameters(), lr=0.1)):
        penalty.penalty(model, inputs, model(inputs))
        model(inputs)
        assert penalty.penalty(twin, inputs).item() == 0
        model(inputs)
        assert penalty.penalty(model, inputs).item() > 0


def test_a_feature_without_a_gradient_is_refused():
    class Checkpointed(Convolutions):
        def forward(self, images):
            body = checkpoint(lambda value: self.act(self.second(self.act(self.first(value)))), images.requires_grad_(),
                              use_reentrant=True)
            return self.head(body.mean((2, 3)))

    model, penalty = Checkpointed(inplace=False).double(), FeatureL2(2.0, modules="second")
    penalty.consolidate(model)
    with pytest.raises(ValueError, match="reentrant checkpoint"):
        penalty.penalty(moved(model), images())


@pytest.mark.parametrize("kind", [LwF, KL])
def test_columns_that_a_model_leaves_out_give_no_nan(kind):
    class Masked(nn.Linear):
        def forward(self, inputs):
            return super().forward(inputs).masked_fill(torch.tensor([False, True, False]), float("-inf"))

    model, penalty, inputs = Masked(4, 3), kind(2.0), torch.randn(5, 4)
    penalty.consolidate(model)
    assert penalty.penalty(model, inputs).item() == pytest.approx(0, abs=1e-6)
    with torch.no_grad():
        model.weight.add_(torch.randn(3, 4))
    value = penalty.penalty(model, inputs)
    value.backward()
    assert 0 < value.item() < 1e4
    assert torch.isfinite(model.weight.grad).all()


def test_one_look_in_half_precision_does_not_round_what_is_remembered():
    model, penalty, inputs = nn.Linear(4, 3), LwF(2.0), torch.randn(5, 4)
    penalty.consolidate(model)
    penalty.penalty(copy.deepcopy(model).bfloat16(), inputs.bfloat16())
    assert penalty.penalty(model, inputs).item() == 0


def test_an_encoders_mask_says_nothing_of_a_decoders_positions():
    class Translator(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(5, 3)

        def forward(self, input_ids, decoder_input_ids, attention_mask, decoder_attention_mask=None):
            return self.table(decoder_input_ids) + self.table(input_ids).mean(1, keepdim=True)

    model, penalty = Translator(), LwF(2.0)
    penalty.consolidate(model)
    inputs = {"input_ids": torch.tensor([[0, 1]]), "decoder_input_ids": torch.tensor([[2, 3]]),
              "attention_mask": torch.tensor([[1, 0]])}
    with torch.no_grad():
        model.table.weight[3] += torch.tensor([1.0, 0.0, -1.0])  # at the decoder's second position only
    assert penalty.penalty(model, inputs).item() > 0
    masked = {**inputs, "decoder_attention_mask": torch.tensor([[1, 0]])}
    assert penalty.penalty(model, masked).item() == 0
