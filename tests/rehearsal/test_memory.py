"""What is kept of a stream, and what is drawn from it."""

import copy
import itertools

import pytest
import torch

from forgetting.rehearsal import Memory
from tests.rehearsal.small import batches, examples


def numbered(count, size=None, classes=1):
    """Examples that carry their own number, in batches; the class is the number modulo the classes."""
    numbers = torch.arange(count)
    inputs = numbers.float().unsqueeze(1)
    size = size or count
    return list(zip(inputs.split(size), (numbers % classes).split(size), strict=True))


def kept(memory):
    """The numbers of what a memory holds."""
    return memory.take(torch.arange(len(memory))).inputs.flatten().long()


def test_every_subset_of_a_reservoir_is_equally_likely():
    trials, counts = 900, dict.fromkeys(itertools.combinations(range(4), 2), 0)
    for seed in range(trials):
        memory = Memory(capacity=2, seed=seed)
        for inputs, targets in numbered(4, size=3):
            memory.add(inputs, targets)
        counts[tuple(sorted(kept(memory).tolist()))] += 1
    expected = trials / 6
    assert sum((count - expected) ** 2 / expected for count in counts.values()) < 20.5  # χ², 5 degrees, p = .001


@pytest.mark.parametrize("policy", ["reservoir", "balanced"])
def test_a_late_example_is_as_likely_as_an_early_one(policy):
    memory = Memory(capacity=4000, policy=policy)
    for inputs, targets in numbered(20000, size=700, classes=3):
        memory.add(inputs, targets)
    counts = torch.histc(kept(memory).float(), bins=20, min=0, max=20000)
    assert counts.sum() == 4000
    # 200 a bin; drawn without replacement the variance is 4/5 of the binomial one.
    assert ((counts - 200) ** 2 / (200 * 0.8)).sum() < 43.8  # χ², 19 degrees, p = .001


@pytest.mark.parametrize("policy", ["reservoir", "balanced"])
def test_the_choice_does_not_depend_on_the_size_of_the_batches(policy):
    choices = []
    for size in (1, 7, 50, 500):
        memory = Memory(capacity=40, policy=policy, seed=5)
        for inputs, targets in numbered(500, size, classes=6):
            memory.add(inputs, targets)
        choices.append(sorted(kept(memory).tolist()))
    assert all(choice == choices[0] for choice in choices)
    other = Memory(capacity=40, policy=policy, seed=6)
    other.add(*numbered(500, classes=6)[0])
    assert sorted(kept(other).tolist()) != choices[0]


@pytest.mark.parametrize("order", ["sorted", "reversed", "shuffled"])
def test_classes_are_balanced_exactly(order):
    sizes = {0: 1, 1: 3, 2: 500, 3: 40, 4: 2000}
    targets = torch.cat([torch.full((size,), label) for label, size in sizes.items()])
    if order != "sorted":
        generator = torch.Generator().manual_seed(0)
        targets = targets.flip(0) if order == "reversed" else targets[torch.randperm(len(targets), generator=generator)]
    memory = Memory(capacity=50, policy="balanced")
    seen = torch.zeros(5, dtype=torch.int64)
    for part in targets.split(33):
        memory.add(torch.zeros(len(part), 1), part)
        seen += torch.bincount(part, minlength=5)
        held = torch.bincount(memory.classes, minlength=5)
        assert held.sum() == min(50, int(seen.sum()))
        full = held[held < seen]  # a class that lacks examples has as many as any other, give or take one
        assert len(full) == 0 or (held.max() - full.min() <= 1)
    assert torch.bincount(memory.classes)[:2].tolist() == [1, 3]
    assert sorted(torch.bincount(memory.classes)[2:].tolist()) == [15, 15, 16]


def test_balance_within_a_class_is_a_fair_choice():
    counts = torch.zeros(6)
    for seed in range(600):
        memory = Memory(capacity=4, policy="balanced", seed=seed)
        memory.add(torch.arange(9.0).unsqueeze(1), torch.tensor([0, 0, 0, 0, 0, 0, 1, 1, 1]))
        numbers = kept(memory)
        assert (numbers < 6).sum() == 2
        counts += torch.bincount(numbers[numbers < 6], minlength=6)
    assert ((counts - 200) ** 2 / (200 * (1 - 2 / 6))).sum() * 5 / 6 < 20.5


def test_a_share_is_kept_of_each_task_and_the_earlier_ones_stay():
    memory = Memory(share=0.1)
    rows = memory.absorb(numbered(101, size=20), outputs=[0])
    assert len(memory) == len(rows) == 10
    first = kept(memory)
    assert len(set(first.tolist())) == 10
    assert memory.absorb(numbered(33, size=20), outputs=[0, 1]).tolist() == [10, 11, 12]
    assert torch.equal(kept(memory)[:10], first)
    assert memory.outputs == ((0,), (0, 1))
    assert memory.take(torch.arange(13)).tasks.tolist() == [0] * 10 + [1] * 3
    assert len(Memory(share=0.01).absorb(numbered(5))) == 1


def test_a_capacity_is_shared_by_all_tasks():
    memory = Memory(capacity=30)
    memory.absorb(numbered(1000, size=100))
    assert len(memory) == 30
    rows = memory.absorb([(inputs + 1000, targets) for inputs, targets in numbered(3000, size=100)])
    later = (kept(memory) >= 1000).sum().item()
    assert len(memory) == 30
    assert 15 <= later <= 29
    assert set((kept(memory) >= 1000).nonzero().flatten().tolist()) <= set(rows.tolist())


def test_draws_are_different_examples_each_as_likely_as_any_other():
    memory = Memory(capacity=10)
    memory.add(*numbered(10)[0])
    counts = torch.zeros(10)
    for _ in range(1000):
        drawn = memory.draw(3).inputs.flatten().long()
        assert len(set(drawn.tolist())) == 3
        counts += torch.bincount(drawn, minlength=10)
    assert ((counts - 300) ** 2 / (300 * 0.7)).sum() * 9 / 10 < 27.9  # χ², 9 degrees, p = .001


def test_a_draw_of_everything_takes_no_chance():
    memory = Memory(capacity=10)
    memory.add(*numbered(10)[0])
    before = memory.state_dict()["drawing"]
    assert memory.draw(10).inputs.flatten().tolist() == list(range(10))
    assert memory.draw(99).inputs.flatten().tolist() == list(range(10))
    assert torch.equal(memory.state_dict()["drawing"], before)
    memory.draw(9)
    assert not torch.equal(memory.state_dict()["drawing"], before)


def test_neither_filling_nor_drawing_touches_the_global_generator():
    before = torch.random.get_rng_state()
    memory = Memory(share=0.5)
    memory.absorb(batches())
    memory.draw(3)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("structure", ["tensor", "pair", "mapping", "nested"])
def test_inputs_of_any_structure_come_back_as_they_were(structure):
    first, second = torch.randn(6, 3), torch.arange(24).view(6, 4)
    inputs = {"tensor": first, "pair": (first, second), "mapping": {"b": second, "a": first},
              "nested": {"x": [first, {"y": second}]}}[structure]
    memory = Memory(capacity=6)
    memory.add(inputs, torch.arange(6))
    drawn = memory.take(torch.tensor([4, 1]))
    expected = {"tensor": first[[4, 1]], "pair": (first[[4, 1]], second[[4, 1]]),
                "mapping": {"a": first[[4, 1]], "b": second[[4, 1]]},
                "nested": {"x": (first[[4, 1]], {"y": second[[4, 1]]})}}[structure]
    torch.testing.assert_close(drawn.inputs, expected, rtol=0, atol=0)
    assert drawn.targets.tolist() == [4, 1]
    first.zero_()
    torch.testing.assert_close(memory.take(torch.tensor([4, 1])).inputs, expected, rtol=0, atol=0)


def test_batches_as_hugging_face_loaders_give_them():
    memory = Memory(share=1.0)
    memory.absorb([{"input_ids": torch.arange(6).view(2, 3), "labels": torch.tensor([1, 0])}])
    drawn = memory.draw(2)
    assert drawn.inputs["input_ids"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert drawn.targets.tolist() == [1, 0]


def test_logits_stay_beside_their_examples_and_may_gain_columns():
    memory = Memory(capacity=3)
    memory.add(torch.zeros(2, 1), torch.tensor([0, 1]), answers=torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    memory.add(torch.ones(1, 1), torch.tensor([0]))
    memory.answer(torch.tensor([1]), torch.tensor([[5.0, 6.0, 7.0]]))
    nan = torch.nan
    expected = torch.tensor([[1.0, 2.0, nan], [5.0, 6.0, 7.0], [nan, nan, nan]])
    torch.testing.assert_close(memory.draw(3).answers, expected, equal_nan=True, rtol=0, atol=0)
    for number in range(50):  # every row is displaced some day, and its logits go with it
        memory.add(torch.full((1, 1), number + 2.0), torch.tensor([0]), answers=torch.full((1, 3), number + 2.0))
    drawn = memory.draw(3)
    rows = drawn.inputs.flatten() >= 2
    assert rows.any()
    assert torch.equal(drawn.answers[rows, 0], drawn.inputs[rows, 0])


def test_bytes_are_those_of_what_is_kept():
    memory = Memory(capacity=100)
    memory.add(torch.zeros(1000, 7), torch.zeros(1000, dtype=torch.int64))
    assert memory.bytes == 100 * (7 * 4 + 8 + 32)
    memory.answer(torch.arange(100), torch.zeros(100, 5))
    assert memory.bytes == 100 * (7 * 4 + 8 + 32 + 5 * 4)
    assert "100 examples in 8800 bytes" in repr(memory)
    shared = Memory(share=0.5)
    for tasks in (1, 2):  # room grows by doubling, and not beyond what there can be
        shared.absorb(numbered(300, size=20))
        assert shared.bytes == 150 * tasks * (4 + 8 + 32)


def test_a_copy_goes_its_own_way():
    memory = Memory(capacity=5)
    memory.add(*examples(20))
    twin = copy.deepcopy(memory)
    assert torch.equal(twin.draw(2).inputs, memory.draw(2).inputs)
    before = kept(memory)
    twin.add(*examples(200, seed=1))
    assert torch.equal(kept(memory), before)


@pytest.mark.parametrize(("settings", "words"), [
    ({}, "share=.*or capacity="), ({"share": 0.1, "capacity": 3}, "not both"), ({"share": 0}, "share is 0"),
    ({"share": 1.5}, "lies in"), ({"capacity": 0}, "at least 1"), ({"capacity": 2.5}, "number of examples"),
    ({"capacity": 3, "policy": "ring"}, "choose one of reservoir, balanced"), ({"capacity": 3, "seed": -1}, "seed"),
])
def test_settings_that_mean_nothing_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        Memory(**settings)


def test_what_does_not_fit_is_refused():
    memory = Memory(capacity=4)
    with pytest.raises(ValueError, match="cannot be drawn from a memory of 0"):
        memory.draw(1)
    memory.add(torch.zeros(2, 3), torch.tensor([0, 1]))
    for inputs, targets, words in (
        (torch.zeros(2, 4), torch.zeros(2, dtype=torch.int64), "pad sequences"),
        (torch.zeros(2, 3, dtype=torch.float64), torch.zeros(2, dtype=torch.int64), "one dtype"),
        (torch.zeros(2, 3), torch.zeros(3, dtype=torch.int64), "one target an example"),
        ((torch.zeros(2, 3), torch.zeros(1, 3)), None, "one row an example"),
        (torch.zeros(2, 3), None, "with targets, or examples without"),
    ):
        with pytest.raises(ValueError, match=words):
            memory.add(inputs, targets)
    with pytest.raises(TypeError, match="keeps tensors"):
        memory.add(["a", "b"], torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ValueError, match="none of the columns"):
        memory.add(torch.zeros(1, 3), torch.tensor([7]), outputs=[0, 1])
    with pytest.raises(ValueError, match="absorb"):
        Memory(share=0.5).add(torch.zeros(1, 3), torch.tensor([0]))
    with pytest.raises(ValueError, match="only once"):
        Memory(share=0.5).absorb(iter(batches()))
    with pytest.raises(ValueError, match="no examples"):
        Memory(share=0.5).absorb([])
    with pytest.raises(ValueError, match='"balanced" needs integer targets'):
        Memory(capacity=4, policy="balanced").add(torch.zeros(1, 3), torch.zeros(1, 2))
    assert len(Memory(capacity=3).absorb(iter(batches()))) >= 3
