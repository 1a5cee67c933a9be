"""The loop is the one anybody would write: the same weights, bit for bit."""

import random

import numpy as np
import pytest
import torch
from torch.nn import functional

from forgetting.curvature import Diagonal
from forgetting.protocol import Diverged, Method, run
from forgetting.protocol.learning import Learning
from forgetting.protocol.recipe import derive
from forgetting.regularizers import EWC
from tests.protocol import tiny

SEED = 3


def learned(recipe, tasks=3):
    """The learning of a recipe after so many tasks."""
    learning = Learning(recipe, SEED, lambda event: None)
    if learning.sequence.pretrained:
        learning.pretrain("key")
    learning.begin()
    for number in range(learning.learned + 1, tasks + 1):
        learning.learn(number)
    return learning


def by_hand(recipe, number, model, data, columns, penalty=None):
    """One task, as a textbook trains it."""
    optimizer = torch.optim.SGD(model.parameters(), lr=recipe.rate, momentum=recipe.momentum)
    generator = torch.Generator().manual_seed(derive(SEED, "order", number))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(SEED, "task", number))
        for _ in range(recipe.epochs):
            for chosen in torch.randperm(len(data), generator=generator).split(recipe.batch):
                local = torch.tensor([columns.index(int(y)) for y in data.targets[chosen]])
                loss = functional.cross_entropy(model(data.inputs[chosen])[:, list(columns)], local)
                if penalty is not None:
                    loss = loss + penalty(model)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()


def same(one, other):
    """Two models are equal in every bit of every parameter and buffer."""
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("scenario", ["task", "domain", "class"])
def test_fine_tuning_is_the_textbook_loop(scenario):
    recipe = tiny.recipe(scenario=scenario)
    sequence = recipe.sequence
    model = recipe.model_of(sequence, SEED)
    for number, task in enumerate(sequence, 1):
        seen = tuple(sorted({column for task in sequence.tasks[:number] for column in task.outputs}))
        by_hand(recipe, number, model, task.train, seen if scenario == "class" else task.outputs)
    assert same(learned(recipe).model, model)


def test_ewc_is_the_textbook_loop_with_a_penalty():
    recipe = tiny.recipe(tiny.ewc(2.0))
    model, ewc = recipe.model_of(recipe.sequence, SEED), EWC(2.0)
    for number, task in enumerate(recipe.sequence, 1):
        if number > 1:
            before = recipe.sequence[number - 2]
            mixed = torch.Generator().manual_seed(derive(SEED, "consolidation", number))
            batches = before.train.batches(recipe.batch, shuffle=True, generator=mixed)
            ewc.consolidate(model, batches, outputs=before.outputs)
        by_hand(recipe, number, model, task.train, task.outputs, ewc.penalty if number > 1 else None)
    assert same(learned(recipe).model, model)


@pytest.mark.parametrize("every", [1, 3, 1000])
def test_measuring_changes_nothing(every):
    usual = learned(tiny.recipe(tiny.ewc()))
    other = learned(tiny.recipe(tiny.ewc(), every=every))
    assert same(usual.model, other.model)
    assert usual.figures["correct"] == other.figures["correct"]
    assert len(other.figures["steps"]) == 3 * (10 // every)


@pytest.mark.parametrize("mode", ["loss", "gradient", "proximal"])
@pytest.mark.parametrize("method", [tiny.ewc, tiny.l2sp])
def test_strength_0_is_fine_tuning(method, mode):
    plain = learned(tiny.recipe())
    assert same(learned(tiny.recipe(method(0.0, mode))).model, plain.model)
    assert not same(learned(tiny.recipe(method(1.0, mode))).model, plain.model)


def test_gradient_mode_is_loss_mode():
    loss, gradient = (learned(tiny.recipe(tiny.ewc(1.0, mode))).model for mode in ("loss", "gradient"))
    for ours, theirs in zip(loss.parameters(), gradient.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_a_pretrained_model_is_protected_from_the_first_step():
    recipe = tiny.recipe(tiny.l2sp(1e12, "proximal"), pretrained=True)
    learning = learned(recipe)
    assert learning.figures["accuracy"][0] == learning.figures["accuracy"][1]
    for name, parameter in learning.model.named_parameters():
        torch.testing.assert_close(parameter.detach(), learning.given[name])
    assert learned(tiny.recipe(pretrained=True), tasks=2).figures["accuracy"][2] != learning.figures["accuracy"][1]


def test_the_source_is_learned_alike_by_all():
    methods = (Method("finetune"), tiny.ewc(), Method("slow", rate=0.1), Method("joint", joint=True))
    plain, *others = (learned(tiny.recipe(method), tasks=1).model for method in methods)
    assert all(same(plain, other) for other in others)


def test_seeds_differ_and_repeat():
    one, again, other = (run(tiny.recipe(), seed) for seed in (0, 0, 1))
    assert one.figures() == again.figures()
    assert one.figures()["correct"] != other.figures()["correct"]


def test_the_data_come_in_the_same_order_for_every_method():
    seen = []

    def watched(sequence):
        model = tiny.plain_network(sequence)
        model.register_forward_pre_hook(lambda module, args: seen.append(args[0]) if module.training else None)
        return model

    orders = []
    for method in (Method("finetune"), tiny.ewc(), Method("slow", rate=0.1)):
        learned(tiny.recipe(method, network=watched))
        orders.append(torch.cat(seen))
        seen.clear()
    assert torch.equal(orders[0], orders[1])
    assert torch.equal(orders[0], orders[2])
    assert len(orders[0]) == 3 * 2 * 50


@pytest.mark.parametrize("pretrained", [True, False])
def test_global_generators_are_left_alone(pretrained):
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    run(tiny.recipe(tiny.ewc(), pretrained=pretrained))
    assert torch.equal(states[0], torch.get_rng_state())
    assert np.array_equal(states[1], np.random.get_state()[1])  # noqa: NPY002
    assert states[2] == random.getstate()


def test_global_generators_do_not_matter():
    torch.manual_seed(1)
    one = run(tiny.recipe())
    torch.manual_seed(2)
    assert run(tiny.recipe()).figures() == one.figures()


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_dtypes(dtype):
    learning = learned(tiny.recipe(tiny.ewc(0.1), dtype=dtype))
    assert all(parameter.dtype == getattr(torch, dtype) for parameter in learning.model.parameters())
    assert learning.figures["accuracy"][-1][-1] > 0.7


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_other_optimizers(optimizer):
    result = run(tiny.recipe(optimizer=optimizer, momentum=0.0, rate=0.02))
    assert result.accuracy[-1, -1] > 0.7


def test_a_loss_that_is_not_finite_names_step_task_strength_and_rate():
    recipe = tiny.recipe(tiny.l2sp(1e6), network=tiny.plain_network, epochs=5)
    words = (r"the loss is (inf|nan) at step \d+ of task 2 \(task 2\), method 'l2sp' with strength 1000000.0, "
             r"rate 0.1: lower the rate or the strength, or choose mode='proximal'")
    with pytest.raises(ValueError, match=words):
        run(recipe)


def test_the_step_named_is_the_first_that_is_not_finite():
    steps = []

    def broken(sequence):
        model = tiny.plain_network(sequence)

        def hook(module, args, output):
            if module.training:
                steps.append(None)
                return output * float("nan") if len(steps) == 7 else output
            return output

        model.register_forward_hook(hook)
        return model

    with pytest.raises(ValueError, match=r"the loss is nan at step 7 of task 1 .*rate 0\.1: lower the rate\. "):
        run(tiny.recipe(network=broken))


class Endless(torch.nn.Linear):
    """A layer whose weight gets an infinite gradient."""

    def forward(self, x):
        weight = self.weight.clone()
        if weight.requires_grad:
            weight.register_hook(lambda gradient: gradient + float("inf"))
        return functional.linear(x, weight, self.bias)


def test_a_matrix_that_overflows_names_the_task_before():
    class Overflowing(EWC):
        def estimate(self, model, data, outputs):
            return Diagonal({name: torch.full_like(value, torch.inf) for name, value in model.named_parameters()})

    method = Method("overflowing", {"strength": 2.0}, regularizer=lambda: Overflowing(2.0))
    with pytest.raises(Diverged, match=r"non-finite numbers: after learning of task 1 .*strength 2\.0.*lower the rate"):
        run(tiny.recipe(method), SEED)


def test_weights_that_the_last_step_broke_are_found():
    def broken(sequence):
        model = tiny.plain_network(sequence)
        model[0] = Endless(model[0].in_features, model[0].out_features)
        return model

    with pytest.raises(ValueError, match=r"the weights '0.weight' are not finite after step 1 of task 1 "):
        run(tiny.recipe(network=broken, epochs=1, batch=50))
