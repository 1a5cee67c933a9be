"""DER and DER++: loss and gradient by hand, and which logits are held."""

import copy

import pytest
import torch
from torch import nn

from forgetting.rehearsal import DER, Memory
from tests.rehearsal.small import batches, examples, network


def linear():
    """A linear model in float64 that has moved since its logits were stored, and a DER++ that remembers them."""
    generator = torch.Generator().manual_seed(0)
    model = nn.Linear(3, 4, bias=False).double()
    model.weight.data = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    inputs, targets = torch.randn(6, 3, generator=generator, dtype=torch.float64), torch.tensor([0, 3, 1, 2, 1, 0])
    der = DER(0.3, labels=2.5, memory=Memory(share=1.0), batch=2)
    der.consolidate(model, [(inputs, targets)])
    answers = (inputs @ model.weight.T).detach()
    model.weight.data += 0.5 * torch.randn(4, 3, generator=generator, dtype=torch.float64)
    return model, der, inputs, targets, answers


def test_loss_and_gradient_are_those_by_hand(monkeypatch):
    model, der, inputs, targets, answers = linear()
    draws = iter([[4, 1], [0, 5]])
    monkeypatch.setattr(der.memory, "draw", lambda _: der.memory.take(torch.tensor(next(draws))))
    value = der.penalty(model)
    gradient = torch.autograd.grad(value, model.weight)[0]
    weight = model.weight.detach()
    expected, slope = 0.0, torch.zeros(4, 3, dtype=torch.float64)
    for n in (4, 1):
        for c in range(4):
            apart = float(weight[c] @ inputs[n] - answers[n, c])
            expected += 0.3 * apart**2 / 4 / 2
            slope[c] += 0.3 * 2 * apart * inputs[n] / 4 / 2
    for n in (0, 5):
        logits = weight @ inputs[n]
        p = torch.softmax(logits, 0)
        expected += 0.3 * 2.5 * float(-torch.log(p[targets[n]])) / 2
        for c in range(4):
            slope[c] += 0.3 * 2.5 * (p[c] - float(c == targets[n])) * inputs[n] / 2
    assert value.item() == pytest.approx(expected, rel=1e-12)
    torch.testing.assert_close(gradient, slope, rtol=1e-12, atol=1e-14)


def test_the_two_batches_are_drawn_independently():
    model, der, *_ = linear()
    drawn, draw = [], der.memory.draw
    der.memory.draw = lambda size: drawn.append(draw(size)) or drawn[-1]
    for _ in range(20):
        der.penalty(model)
    same = [torch.equal(a.inputs, b.inputs) for a, b in zip(drawn[::2], drawn[1::2], strict=True)]
    assert len(drawn) == 40
    assert not all(same)
    der.labels = 0.0
    drawn.clear()
    der.penalty(model)
    assert len(drawn) == 1


def test_without_labels_it_is_zero_where_the_logits_were_stored_and_nowhere_else():
    model = network().eval()
    der = DER(1.0, memory=Memory(share=1.0), batch=99)
    der.consolidate(model, batches())
    assert der.penalty(model).item() == 0
    model[3].bias.data[0] += 2
    assert der.penalty(model).item() == pytest.approx(2**2 / 4, rel=1e-5)


def test_the_logits_are_those_of_eval_mode_at_the_end_of_the_task():
    model = network()
    model.train()
    der = DER(1.0, memory=Memory(share=1.0))
    der.consolidate(model, batches())
    stored = der.memory.draw(99)
    torch.testing.assert_close(stored.answers, copy.deepcopy(model).eval()(stored.inputs), rtol=1e-5, atol=1e-6)
    model[3].bias.data += 1
    der.consolidate(model, batches(8, seed=3))
    later = der.memory.draw(99)
    assert torch.equal(later.answers[:24], stored.answers)
    torch.testing.assert_close(later.answers[24:], copy.deepcopy(model).eval()(later.inputs[24:]), rtol=1e-5, atol=1e-6)


def test_a_displaced_example_takes_its_logits_along():
    der = DER(1.0, memory=Memory(capacity=6))
    model = network().eval()
    for seed in range(3):
        der.consolidate(model, batches(30, seed=seed))
    drawn = der.memory.draw(6)
    torch.testing.assert_close(drawn.answers, model(drawn.inputs), rtol=1e-5, atol=1e-6)


def test_only_a_tasks_own_columns_are_held():
    model = network().eval()
    der = DER(1.0, memory=Memory(share=1.0), batch=99)
    der.consolidate(model, [examples(6, classes=2)], outputs=[0, 1])
    model[3].bias.data[2:] += 5
    assert der.penalty(model).item() == 0
    model[3].bias.data[1] += 3
    assert der.penalty(model).item() == pytest.approx(3**2 / 2, rel=1e-5)


def test_where_tasks_compete_the_columns_to_come_are_held_too():
    model = network().eval()
    der = DER(1.0, memory=Memory(share=1.0), batch=99)
    der.consolidate(model, [examples(6, classes=2)], outputs=[0, 1])
    der.columns = range(4)  # class-incremental: as in the paper, all logits that were stored
    model[3].bias.data[2:] += 5
    assert der.penalty(model).item() == pytest.approx(2 * 5**2 / 4, rel=1e-5)


def test_a_head_may_grow():
    model = network(classes=2).eval()
    der = DER(1.0, labels=1.0, memory=Memory(share=1.0), batch=99)
    der.consolidate(model, [examples(6, classes=2)])
    old = model[3]
    model[3] = nn.Linear(6, 5)
    model[3].weight.data[:2], model[3].bias.data[:2] = old.weight.data, old.bias.data
    der.labels = 0.0
    assert der.penalty(model).item() == pytest.approx(0, abs=1e-12)
    der.labels = 1.0
    inputs, targets = examples(6, classes=2)
    right = nn.functional.cross_entropy(model(inputs), targets)
    assert der.penalty(model).item() == pytest.approx(right.item(), rel=1e-6)
    der.consolidate(model, [examples(6, seed=4, classes=5)])
    assert der.memory.draw(99).answers.shape == (12, 5)
    der.labels = 0.0
    assert der.penalty(model).item() == pytest.approx(0, abs=1e-12)


def test_the_papers_form_stores_logits_in_the_loop():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    der = DER(0.5, labels=1.0, memory=Memory(capacity=10))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for inputs, targets in batches(40):
            logits = model(inputs)
            loss = nn.functional.cross_entropy(logits, targets) + der.penalty(model, inputs)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            der.memory.add(inputs, targets, answers=logits)
    drawn = der.memory.draw(10)
    assert drawn.answers.isfinite().all()
    assert not drawn.answers.requires_grad
    assert not torch.allclose(drawn.answers, model.eval()(drawn.inputs))


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="labels is -1"):
        DER(1.0, labels=-1)
    with pytest.raises(ValueError, match=r"labels=0 leaves out"):
        DER(1.0, loss=nn.functional.cross_entropy)
    der = DER(1.0, memory=Memory(capacity=4))
    der.memory.add(*examples(4))
    with pytest.raises(ValueError, match="holds no logits"):
        der.penalty(network(), torch.zeros(2, 5))
