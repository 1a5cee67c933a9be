"""A-GEM: the projection by hand, and nothing where there is no conflict."""

import copy

import pytest
import torch
from torch import nn

from forgetting.regularizers import L2SP
from forgetting.rehearsal import AGEM, Memory
from tests.rehearsal.small import examples, network


def situation(conflict, dtype=torch.float64, strength=1.0):
    """A model, its A-GEM, and a new task whose labels do, or do not, contradict those in the memory."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 2)).to(dtype)
    inputs, targets = examples(12, classes=2, dtype=dtype)
    agem = AGEM(strength, memory=Memory(share=1.0), batch=99)
    agem.consolidate(model, [(inputs, targets)])
    return model, agem, inputs, 1 - targets if conflict else targets


def gradients_at_the_step(model, agem, inputs, targets, optimizer=None):
    """The gradients that the task gives, and those with which the optimizer steps."""
    optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(inputs), targets).backward()
    before = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    with agem.attach(model, optimizer):
        optimizer.step()
    return before, {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}


def by_hand(model, before, inputs, targets, strength=1.0):
    """g − λ(gᵀr/‖r‖²)r with everything in one long row; the reference is the mean of single examples' gradients."""
    model = copy.deepcopy(model)
    names = list(before)
    r = torch.zeros(sum(value.numel() for value in before.values()), dtype=torch.float64)
    for one, target in zip(inputs, targets, strict=True):
        loss = -torch.log_softmax(model(one[None])[0], 0)[target]
        parts = torch.autograd.grad(loss, [dict(model.named_parameters())[name] for name in names])
        r += torch.cat([part.flatten() for part in parts]).double() / len(inputs)
    g = torch.cat([before[name].flatten() for name in names]).double()
    if g @ r < 0:
        g = g - strength * (g @ r) / (r @ r) * r
    pieces = g.split([before[name].numel() for name in names])
    return {name: piece.view_as(before[name]) for name, piece in zip(names, pieces, strict=True)}, r


@pytest.mark.parametrize("strength", [1.0, 0.5, 2.0])
def test_a_conflicting_gradient_is_projected_as_by_hand(strength):
    model, agem, inputs, targets = situation(conflict=True, strength=strength)
    start = copy.deepcopy(model)
    before, after = gradients_at_the_step(model, agem, inputs, targets)
    expected, r = by_hand(start, before, inputs, 1 - targets, strength)
    for name in before:
        torch.testing.assert_close(after[name], expected[name], rtol=1e-10, atol=1e-14)
        assert not torch.equal(after[name], before[name])
    along = torch.cat([value.flatten() for value in after.values()]) @ r
    full = torch.cat([value.flatten() for value in before.values()]) @ r
    assert along.item() == pytest.approx((1 - strength) * full.item(), abs=1e-12)


def test_a_gradient_without_conflict_is_left_bit_by_bit():
    model, agem, inputs, targets = situation(conflict=False)
    before, after = gradients_at_the_step(model, agem, inputs, targets)
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_a_step_does_not_raise_the_old_loss_to_first_order():
    losses = {}
    for strength in (0.0, 1.0):
        model, agem, inputs, targets = situation(conflict=True, strength=strength)
        noise = torch.randn(12, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
        old = nn.functional.cross_entropy(model(inputs), 1 - targets).item()
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
        gradients_at_the_step(model, agem, inputs + 0.5 * noise, targets, optimizer)
        losses[strength] = (nn.functional.cross_entropy(model(inputs), 1 - targets).item() - old) / 1e-4
    assert losses[0.0] > 0
    assert abs(losses[1.0]) < 1e-3 * losses[0.0]


def test_all_optimised_parameters_are_one_row_and_the_others_are_left_alone():
    model, agem, inputs, targets = situation(conflict=True)
    model[0].bias.requires_grad_(False)
    model.aside = nn.Parameter(torch.ones(2, dtype=torch.float64))
    start = copy.deepcopy(model)
    optimizer = torch.optim.SGD([*model[0].parameters(), model[2].weight, model.aside], lr=0.1)
    before, after = gradients_at_the_step(model, agem, inputs, targets, optimizer)
    assert torch.equal(after["2.bias"], before.pop("2.bias"))
    expected, _ = by_hand(start, before, inputs, 1 - targets)
    assert set(before) == {"0.weight", "2.weight"}
    for name in before:
        torch.testing.assert_close(after[name], expected[name], rtol=1e-10, atol=1e-14)
    assert model.aside.grad is None
    assert torch.equal(model.aside, torch.ones(2, dtype=torch.float64))


def test_a_parameter_without_a_gradient_counts_as_zero_and_gets_its_share():
    class Heads(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.old, self.new = nn.Linear(5, 3), nn.Linear(3, 2), nn.Linear(3, 2)
            self.task = "old"

        def forward(self, inputs):
            return getattr(self, self.task)(self.body(inputs))

    for opposite in (True, False):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = Heads().double()
        model.new.load_state_dict(model.old.state_dict())
        inputs, targets = examples(12, classes=2, dtype=torch.float64)
        agem = AGEM(memory=Memory(share=1.0), batch=99)
        agem.consolidate(model, [(inputs, targets)])
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        model.task = "new"
        nn.functional.cross_entropy(model(inputs), 1 - targets if opposite else targets).backward()
        model.task = "old"
        before = {name: weight.grad for name, weight in model.named_parameters()}
        g = {name: torch.zeros_like(weight) if weight.grad is None else weight.grad.clone()
             for name, weight in model.named_parameters()}
        reference = torch.autograd.grad(nn.functional.cross_entropy(model(inputs), targets), list(model.parameters()),
                                        allow_unused=True)
        with agem.attach(model, optimizer):
            optimizer.step()
        if not opposite:
            assert model.old.weight.grad is None
            assert all(weight.grad is before[name] for name, weight in model.named_parameters())
            continue
        r = dict(zip(g, reference, strict=True))
        share = sum((g[name] * r[name]).sum() for name in g if r[name] is not None) / sum(
            value.square().sum() for value in reference if value is not None)
        assert share < 0
        torch.testing.assert_close(model.old.weight.grad, -share * r["old.weight"], rtol=1e-10, atol=1e-14)
        torch.testing.assert_close(model.body.weight.grad, g["body.weight"] - share * r["body.weight"])
        assert torch.equal(model.new.weight.grad, g["new.weight"])


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
@pytest.mark.parametrize("fused", [False, True])
def test_a_gradient_scaler_changes_nothing(kind, fused):
    def trained(scaler):
        model, agem, *_ = situation(conflict=True, dtype=torch.float32)
        optimizer = kind(model.parameters(), lr=0.05, fused=fused)
        with agem.attach(model, optimizer):
            for number in range(6):
                inputs, targets = examples(12, seed=number, classes=2)
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model(inputs), 1 - targets)
                if scaler is None:
                    loss.backward()
                    optimizer.step()
                else:
                    scaler.scale(loss).backward()
                    scaler.step(optimizer)
                    scaler.update()
        return list(model.parameters())

    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12, growth_interval=3)
    for plain, scaled in zip(trained(None), trained(scaler), strict=True):
        torch.testing.assert_close(scaled, plain, rtol=1e-6, atol=1e-7)


def test_the_reference_pass_moves_no_statistics_no_gradients_and_no_random_state():
    model = network()
    agem = AGEM(memory=Memory(share=1.0), batch=8)
    inputs, targets = examples(24)
    agem.consolidate(model, [(inputs, (targets + 1) % 4)])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    nn.functional.cross_entropy(model(inputs), targets).backward()
    before, random = copy.deepcopy(model.state_dict()), torch.random.get_rng_state()
    modes = [module.training for module in model.modules()]
    with agem.attach(model, optimizer):
        optimizer.step()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), random)
    assert [module.training for module in model.modules()] == modes


def test_the_gradient_of_the_whole_loss_is_projected_pulls_included():
    found = {}
    for mode in ("loss", "gradient"):
        model, agem, inputs, targets = situation(conflict=True)
        held = L2SP(0.3)
        held.consolidate(model)
        model[0].weight.data += 0.2
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        loss = nn.functional.cross_entropy(model(inputs), targets)
        (loss + held.penalty(model) if mode == "loss" else loss).backward()
        with held.attach(model, optimizer, mode=mode), agem.attach(model, optimizer):
            optimizer.step()
        found[mode] = [weight.grad for weight in model.parameters()]
    for one, other in zip(found["loss"], found["gradient"], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-14)


def test_accumulated_gradients_are_projected_once():
    found = []
    for parts in (1, 4):
        model, agem, inputs, targets = situation(conflict=True)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for some, labels in zip(inputs.chunk(parts), targets.chunk(parts), strict=True):
            (nn.functional.cross_entropy(model(some), labels) / parts).backward()
        with agem.attach(model, optimizer):
            optimizer.step()
        found.append([weight.grad for weight in model.parameters()])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-14)


def test_what_cannot_be_projected_is_refused():
    model, agem, *_ = situation(conflict=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with agem.attach(model, optimizer), pytest.raises(RuntimeError, match="a step with a closure"):
        optimizer.step(lambda: torch.zeros(()))
    stranger = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1)
    with agem.attach(model, stranger), pytest.raises(ValueError, match="holds none of this model's parameters"):
        stranger.step()
    embedding = nn.Sequential(nn.Embedding(4, 3, sparse=True), nn.Flatten(), nn.Linear(6, 2))
    tokens = torch.tensor([[0, 1], [2, 3]])
    agem = AGEM(memory=Memory(share=1.0))
    agem.consolidate(embedding, [(tokens, torch.tensor([0, 1]))])
    optimizer = torch.optim.SGD(embedding.parameters(), lr=0.1)
    nn.functional.cross_entropy(embedding(tokens), torch.tensor([1, 0])).backward()
    with agem.attach(embedding, optimizer), pytest.raises(ValueError, match="one is sparse"):
        optimizer.step()


def test_hooks_go_with_the_handle():
    model, agem, inputs, targets = situation(conflict=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    handle = agem.attach(model, optimizer)
    with pytest.raises(ValueError, match="attached to this optimizer already"):
        agem.attach(model, optimizer)
    handle.remove()
    assert not optimizer._optimizer_step_pre_hooks
    nn.functional.cross_entropy(model(inputs), targets).backward()
    before = [weight.grad.clone() for weight in model.parameters()]
    optimizer.step()
    assert all(map(torch.equal, before, [weight.grad for weight in model.parameters()]))
    with pytest.raises(ValueError, match="offers loss, gradient"):
        agem.attach(model, optimizer, mode="proximal")
