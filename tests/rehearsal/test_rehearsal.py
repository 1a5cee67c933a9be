"""What holds for all rehearsal: nothing without knowledge, nothing moved but what training moves, the right columns."""

import copy
import io

import pytest
import torch
from torch import nn

from forgetting.rehearsal import AGEM, DER, Memory, ProxyReplay, Rehearsal, Replay
from tests.rehearsal.small import MAKERS, batches, examples, network

ROWS = pytest.mark.parametrize("row", MAKERS)
TERMS = pytest.mark.parametrize("row", [row for row in MAKERS if row != "AGEM"])


def plain(value):
    """Whether a state is made of string-keyed mappings of tensors and plain values."""
    if isinstance(value, dict):
        return all(isinstance(key, str) and plain(entry) for key, entry in value.items())
    return value is None or type(value) in (torch.Tensor, bool, int, float, str)


def steps(model, rehearsal, count=4, classes=4):
    """The weights after a few steps of another task."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    handle = rehearsal.attach(model, optimizer) if rehearsal is not None else None
    with torch.random.fork_rng():
        torch.manual_seed(7)
        for number in range(count):
            inputs, targets = examples(8, seed=50 + number, classes=classes)
            loss = nn.functional.cross_entropy(model(inputs), targets)
            if rehearsal is not None:
                loss = loss + rehearsal.penalty(model, inputs)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    if handle is not None:
        handle.remove()
    return model.state_dict()


@pytest.mark.parametrize("found", [AGEM, DER, ProxyReplay, Replay])
def test_a_strength_alone_makes_a_rehearsal(found):
    rehearsal = found(strength=2)
    assert isinstance(rehearsal, Rehearsal)
    assert rehearsal.strength == 2.0
    rehearsal.consolidate(network(), batches())
    assert len(rehearsal.memory) == (24 if found is ProxyReplay else 1)


@ROWS
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_zero_without_a_graph_while_the_memory_is_empty(row, dtype):
    value = MAKERS[row](3.0, share=1.0).penalty(network(dtype))
    assert value.item() == 0
    assert value.dtype == torch.promote_types(dtype, torch.float32)
    assert not value.requires_grad


@ROWS
@pytest.mark.parametrize("strength", [0.0, 3.0])
def test_strength_0_and_an_empty_memory_are_bit_identical_to_no_method(row, strength):
    rehearsal = MAKERS[row](strength, share=1.0)
    if strength == 0:
        rehearsal.consolidate(network(), batches())
    bare, same = steps(network(), None), steps(network(), rehearsal)
    assert all(torch.equal(bare[name], same[name]) for name in bare)


@ROWS
def test_strength_above_0_differs(row):
    rehearsal = MAKERS[row](5.0, share=1.0)
    start = network()
    inputs, targets = examples(24)
    rehearsal.consolidate(start, [(inputs, torch.ones_like(targets))])  # and the new task is of class 0 only
    bare, other = (steps(copy.deepcopy(start), which, classes=1) for which in (None, rehearsal))
    assert not torch.equal(bare["0.weight"], other["0.weight"])


@ROWS
def test_what_is_not_training_leaves_the_model_as_found(row):
    model = network()
    model[1].eval()
    inputs, targets = examples(8, seed=1)
    nn.functional.cross_entropy(model(inputs), targets).backward()
    before, random = copy.deepcopy(model.state_dict()), torch.random.get_rng_state()
    gradients, modes = {n: w.grad for n, w in model.named_parameters()}, [m.training for m in model.modules()]
    kept = {name: gradient.clone() for name, gradient in gradients.items()}
    rehearsal = MAKERS[row](3.0, share=1.0)
    rehearsal.consolidate(model, batches())
    rehearsal.penalty(model, inputs)
    assert torch.equal(torch.random.get_rng_state(), random)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    for name, weight in model.named_parameters():
        assert weight.grad is gradients[name]
        assert torch.equal(weight.grad, kept[name])
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@TERMS
def test_a_norm_in_train_mode_sees_the_drawn_batch_as_it_sees_any_other(row):
    model = network()
    rehearsal = MAKERS[row](3.0, share=1.0)
    rehearsal.consolidate(model, batches())
    assert model[1].num_batches_tracked == 0
    rehearsal.penalty(model)
    assert model[1].num_batches_tracked == (2 if row == "DER++" else 1)


@TERMS
def test_dropout_of_the_tasks_own_batches_is_the_same_as_without(row):
    model = network()
    rehearsal = MAKERS[row](3.0, share=1.0)
    rehearsal.consolidate(model, batches())
    with torch.random.fork_rng():
        torch.manual_seed(0)
        alone = torch.nn.functional.dropout(torch.ones(50))
        torch.manual_seed(0)
        first = rehearsal.penalty(model)
        assert torch.equal(torch.nn.functional.dropout(torch.ones(50)), alone)
        assert not torch.equal(rehearsal.penalty(model), first)  # the drawn batch has masks of its own


@ROWS
def test_the_state_is_plain_and_goes_through_a_file(row):
    model = network().eval()
    rehearsal = MAKERS[row](3.0, capacity=10)
    rehearsal.consolidate(model, batches())
    state = rehearsal.state_dict()
    assert plain(state)
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    again = MAKERS[row](3.0, capacity=10)
    again.load_state_dict(torch.load(file, weights_only=True))
    model[0].weight.data += 1
    assert torch.equal(again.penalty(model), rehearsal.penalty(model))
    twin = copy.deepcopy(rehearsal)
    for one in (twin, again, rehearsal):
        one.consolidate(model, batches(40, seed=1))
    model[0].weight.data += 1
    value = rehearsal.penalty(model)
    assert torch.equal(again.penalty(model), value)
    assert torch.equal(twin.penalty(model), value)
    with pytest.raises(ValueError, match="the state of a Nobody"):
        rehearsal.load_state_dict(state | {"class": "Nobody"})


@TERMS
@pytest.mark.parametrize(("before", "after", "error"), [
    (torch.float32, torch.float64, 1e-5), (torch.float64, torch.float32, 1e-4), (torch.float32, torch.bfloat16, 2e-1),
])
def test_the_model_may_change_its_dtype(row, before, after, error):
    model = network(before).eval()
    rehearsal = MAKERS[row](3.0, share=1.0)
    rehearsal.consolidate(model, batches(dtype=before))
    model[0].weight.data += 0.5
    value = rehearsal.penalty(model)
    moved = rehearsal.penalty(model.to(after))
    assert moved.dtype == torch.promote_types(after, torch.float32)
    assert moved.item() == pytest.approx(value.item(), rel=error)
    moved.backward()


@TERMS
@pytest.mark.parametrize("accumulate", [2, 4])
def test_divided_over_micro_batches_it_is_the_same(row, accumulate):
    gradients = []
    for parts in (1, accumulate):
        model = network(torch.float64).eval()
        rehearsal = MAKERS[row](3.0, share=1.0)
        rehearsal.consolidate(model, batches(dtype=torch.float64))
        model[0].weight.data += 0.5
        for _ in range(parts):
            (rehearsal.penalty(model) / parts).backward()
        gradients.append(model[0].weight.grad)
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-14)


def by_hand(model, inputs, targets, columns):
    """The mean over examples of −log softmax over some columns, each example on its own."""
    losses = []
    for one, target, own in zip(inputs, targets, columns, strict=True):
        logits = model(one[None])[0]
        losses.append(torch.logsumexp(logits[list(own)], 0) - logits[target])
    return torch.stack(losses).mean()


@pytest.mark.parametrize("columns", ["own", "seen", "all"])
def test_an_example_is_scored_among_its_own_columns_or_among_those_that_are_said(columns):
    model = network(torch.float64, classes=6).eval()
    replay = Replay(memory=Memory(share=1.0), batch=100)
    first, second = examples(7, seed=1, classes=2, dtype=torch.float64), examples(5, seed=2, dtype=torch.float64)
    second = second[0], second[1] % 2 + 2
    told = [None, None] if columns == "all" else [[0, 1], [2, 3]]
    replay.consolidate(model, [first], outputs=told[0])
    replay.consolidate(model, [second], outputs=told[1])
    if columns == "seen":
        replay.columns = range(5)
    expected = {"own": [[0, 1]] * 7 + [[2, 3]] * 5, "seen": [range(5)] * 12, "all": [range(6)] * 12}[columns]
    inputs, targets = torch.cat([first[0], second[0]]), torch.cat([first[1], second[1]])
    reference = by_hand(model, inputs, targets, expected)
    assert replay.penalty(model).item() == pytest.approx(reference.item(), rel=1e-12)
    found, right = (torch.autograd.grad(value, model[3].weight)[0] for value in (replay.penalty(model), reference))
    torch.testing.assert_close(found, right, rtol=1e-10, atol=1e-12)


def test_as_many_are_drawn_as_the_batch_has_or_as_batch_says(monkeypatch):
    replay = Replay(memory=Memory(share=1.0))
    model = network()
    replay.consolidate(model, batches())
    sizes, draw = [], replay.memory.draw
    monkeypatch.setattr(replay.memory, "draw", lambda size: sizes.append(size) or draw(size))
    replay.penalty(model, torch.zeros(5, 5))
    replay.penalty(model, (torch.zeros(3, 5), torch.zeros(3)))
    replay.penalty(model, {"x": torch.zeros(2, 5)})
    replay.batch = 7
    replay.penalty(model, torch.zeros(5, 5))
    assert sizes == [5, 3, 2, 7]
    replay.batch = None
    with pytest.raises(ValueError, match=r"call penalty\(model, inputs\), or say batch="):
        replay.penalty(model)


def test_a_loss_of_ones_own_sees_what_competes():
    def squared(outputs, targets):
        return (outputs - targets).square().mean()

    model = nn.Linear(5, 1)
    replay = Replay(2.0, memory=Memory(share=1.0), batch=9, loss=squared)
    inputs, targets = torch.randn(6, 5), torch.randn(6, 1)
    replay.consolidate(model, [(inputs, targets)])
    assert torch.equal(replay.penalty(model), 2 * squared(model(inputs), targets))
    replay.loss = None
    with pytest.raises(TypeError, match="give loss="):
        replay.penalty(model)
    seen = []
    replay = Replay(memory=Memory(share=1.0), batch=9, loss=lambda z, y: seen.append(z) or z[:, 0].sum())
    model = network().eval()
    replay.consolidate(model, [examples(6, classes=2)], outputs=[0, 1])
    replay.penalty(model)
    assert seen[0][:, 2:].isneginf().all()
    assert seen[0][:, :2].isfinite().all()


@ROWS
def test_what_cannot_be_is_refused(row):
    rehearsal, model = MAKERS[row](1.0, share=1.0), network()
    with pytest.raises(ValueError, match="needs data="):
        rehearsal.consolidate(model)
    with pytest.raises(ValueError, match="takes no curvature="):
        rehearsal.consolidate(model, batches(), curvature=object())
    with pytest.raises(ValueError, match="once and from 0 on"):
        rehearsal.consolidate(model, batches(), outputs=[1, 1])
    with pytest.raises(ValueError, match="once and from 0 on"):
        rehearsal.columns = [-1]
    with pytest.raises(TypeError, match="numbers"):
        rehearsal.columns = "01"
    with pytest.raises(ValueError, match="at least 1"):
        Replay(batch=0)


def test_columns_that_leave_out_a_stored_target_are_refused():
    replay, model = Replay(memory=Memory(share=1.0)), network()
    replay.consolidate(model, batches())
    with pytest.raises(ValueError, match=r"leaves out the targets \[2, 3\]"):
        replay.columns = [0, 1]
    early = Replay(memory=Memory(share=1.0), columns=[0, 1])
    with pytest.raises(ValueError, match=r"leaves out the targets \[2, 3\]"):
        early.consolidate(model, batches())
    replay.columns = range(9)
    with pytest.raises(ValueError, match="the column 8 is to compete.*4 logits"):
        replay.penalty(model, torch.zeros(2, 5))


def test_a_compiled_model_is_rehearsed_like_the_model_itself():
    model = network().eval()
    compiled = torch.compile(model, backend="eager")
    for row in ("Replay", "DER++", "ProxyReplay"):
        plain_one, other = MAKERS[row](1.0, share=1.0), MAKERS[row](1.0, share=1.0)
        plain_one.consolidate(model, batches())
        other.consolidate(compiled, batches())
        assert torch.equal(other.penalty(compiled), plain_one.penalty(model))


def test_it_adds_up_with_a_penalty_on_weights():
    from forgetting.regularizers import L2SP

    model = network().eval()
    held, replay = L2SP(3.0), Replay(memory=Memory(share=1.0), batch=99)
    for regularizer in (held, replay):
        regularizer.consolidate(model, batches())
    model[0].weight.data += 1
    both = sum(regularizer.penalty(model) for regularizer in (held, replay))
    assert both.item() == pytest.approx(held.penalty(model).item() + replay.penalty(model).item())
