"""Each piece of a method does what it says, and only in the tasks after the source."""

import copy
import math

import pytest
import torch
from torch.nn import functional

from forgetting import methods
from forgetting.protocol import Method, Monitor, metrics, run
from forgetting.protocol.recipe import derive
from forgetting.protocol.train import Lesson
from tests.protocol import tiny
from tests.protocol.test_loop import SEED, by_hand, learned, same


def test_joint_training_is_the_textbook_loop_over_the_union_from_the_given_model():
    recipe = tiny.recipe(methods.get("joint"), network=tiny.plain_network)
    sequence = recipe.sequence
    model = recipe.model_of(sequence, SEED)
    optimizer = torch.optim.SGD(model.parameters(), lr=recipe.rate, momentum=recipe.momentum)
    inputs = torch.cat([task.train.inputs for task in sequence])
    targets = torch.cat([task.train.targets for task in sequence])
    generator = torch.Generator().manual_seed(derive(SEED, "order", 3))
    for _ in range(recipe.epochs):
        for chosen in torch.randperm(150, generator=generator).split(recipe.batch):
            logits, losses = model(inputs[chosen]), []
            for row, target in zip(logits, targets[chosen], strict=True):
                first = int(target) // 2 * 2  # the head of its own task
                losses.append(functional.cross_entropy(row[first: first + 2], target - first))
            optimizer.zero_grad()
            torch.stack(losses).mean().backward()
            optimizer.step()
    ours = learned(recipe).model
    for mine, theirs in zip(model.parameters(), ours.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("scenario", ["domain", "class"])
def test_joint_training_where_all_share_the_columns(scenario):
    result = run(tiny.recipe(methods.get("joint"), scenario, network=tiny.plain_network, epochs=10))
    finetuned = run(tiny.recipe(None, scenario, network=tiny.plain_network, epochs=10))
    assert metrics.average_accuracy(result.accuracy) > metrics.average_accuracy(finetuned.accuracy)


def test_an_examples_loss_sees_its_own_columns_only():
    sequence = tiny.sequence("task")
    lesson = Lesson.of([task.train for task in sequence], [task.outputs for task in sequence], 6)
    logits = torch.randn(4, 6, requires_grad=True)
    lesson.loss(logits, torch.tensor([0, 3, 3, 5])).backward()
    assert [row.nonzero().flatten().tolist() for row in logits.grad] == [[0, 1], [2, 3], [2, 3], [4, 5]]


def test_the_curve_runs_from_the_model_before_to_the_model_after():
    plain = run(tiny.recipe(pretrained=True), SEED)
    result = run(tiny.recipe(methods.get("wise-ft", amount=0.3), pretrained=True), SEED)
    second = {point["amount"]: point["accuracy"] for point in result.curve if point["task"] == 2}
    assert sorted(second) == pytest.approx([step / 10 for step in range(11)])
    assert second[0.0] == plain.accuracy[1].tolist()
    assert second[1.0] == plain.accuracy[2].tolist()
    kept = next(point["accuracy"] for point in result.curve
                if point["task"] == 2 and math.isclose(point["amount"], 0.3))
    assert kept == result.accuracy[2].tolist()
    assert plain.curve == []
    third = [point["accuracy"] for point in result.curve if point["task"] == 3]
    assert third[0] == result.accuracy[2].tolist()


def test_averaging_leaves_the_first_task_from_scratch_alone():
    result = run(tiny.recipe(methods.get("wise-ft")))
    assert {point["task"] for point in result.curve} == {2, 3}
    assert result.accuracy[1].tolist() == run(tiny.recipe()).accuracy[1].tolist()


def test_frozen_parameters_do_not_drift():
    freeze = run(tiny.recipe(methods.get("freeze", depth=1), pretrained=True, network=tiny.plain_network,
                             weight_decay=0.1))
    assert {name: amount > 0 for name, amount in freeze.drift.items()} == {
        "0.weight": False, "0.bias": False, "2.weight": True, "2.bias": True}
    probe = run(tiny.recipe(methods.get("linear-probe"), pretrained=True))
    assert {name for name, amount in probe.drift.items() if amount > 0} == {"4.weight", "4.bias"}


def test_from_scratch_the_source_is_learned_before_anything_is_frozen():
    frozen = learned(tiny.recipe(methods.get("freeze", depth=1)), tasks=1)
    assert same(frozen.model, learned(tiny.recipe(), tasks=1).model)
    assert all(parameter.requires_grad for parameter in frozen.model.parameters())
    frozen.learn(2)
    assert all(parameter.requires_grad for parameter in frozen.model.parameters())


def test_a_rate_factor_acts_after_the_source_only():
    rates = []

    def schedule(optimizer, situation):
        rates.append((optimizer.param_groups[0]["lr"], situation.steps))
        return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)

    run(tiny.recipe(Method("slow", rate=0.1, schedule=schedule)))
    assert rates == [(pytest.approx(0.01), 10)] * 2


def test_a_schedule_is_stepped_once_a_step():
    seen = []

    def schedule(optimizer, situation):
        return torch.optim.lr_scheduler.LambdaLR(optimizer,
                                                 lambda step: seen.append(step) or 1 - step / situation.steps)

    falling = learned(tiny.recipe(Method("falling", schedule=schedule)), tasks=2)
    assert seen == list(range(11))
    assert not same(falling.model, learned(tiny.recipe(), tasks=2).model)


def test_layer_wise_rates_reach_the_optimizer():
    method = methods.get("layerwise-decay", decay=0.1)
    assert same(learned(tiny.recipe(method), tasks=1).model, learned(tiny.recipe(), tasks=1).model)
    recipe = tiny.recipe(method, pretrained=True, network=tiny.plain_network)
    slow = learned(recipe, tasks=2)
    model = recipe.model_of(recipe.sequence, SEED)
    model.load_state_dict(slow.given)
    optimizer = torch.optim.SGD([{"params": model[0].parameters(), "lr": 0.01}, {"params": model[2].parameters()}],
                                lr=0.1, momentum=0.9)
    data, generator = recipe.sequence[1].train, torch.Generator().manual_seed(derive(SEED, "order", 2))
    for _ in range(recipe.epochs):
        for chosen in torch.randperm(50, generator=generator).split(10):
            optimizer.zero_grad()
            functional.cross_entropy(model(data.inputs[chosen])[:, 2:4], data.targets[chosen] - 2).backward()
            optimizer.step()
    for mine, theirs in zip(model.parameters(), slow.model.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)


def test_penalty_and_pull_are_logged_apart_from_the_loss():
    strength = 0.7
    result = run(tiny.recipe(tiny.l2sp(strength), pretrained=True, every=5))
    assert [(entry["task"], entry["step"]) for entry in result.penalties] == [(2, 5), (2, 10), (3, 5), (3, 10)]
    for entry in result.penalties:
        # ½λ‖δ‖² and λ‖δ‖ for the same δ
        assert entry["pull"] ** 2 == pytest.approx(2 * strength * entry["penalty"], rel=1e-4)
        assert entry["ratio"] == entry["pull"] / entry["gradient"]
    assert run(tiny.recipe(pretrained=True)).penalties == []


def test_the_gradient_logged_is_the_tasks_own():
    recipe = tiny.recipe(tiny.l2sp(5.0), pretrained=True, network=tiny.plain_network, every=1, batch=50, rate=0.5)
    learning = learned(recipe, tasks=1)
    model, data, norms, losses = copy.deepcopy(learning.model), recipe.sequence[1].train, [], []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for _ in range(2):
        optimizer.zero_grad()
        losses.append(functional.cross_entropy(model(data.inputs)[:, 2:4], data.targets - 2))
        losses[-1].backward()
        norms.append(math.sqrt(sum(float(parameter.grad.double().square().sum()) for parameter in model.parameters())))
        optimizer.step()  # the first step feels no pull: the weights are still at their anchor
    learning.learn(2)
    first, second = learning.figures["penalties"]
    assert (first["penalty"], first["pull"]) == (0, 0)
    assert second["penalty"] > 0
    assert [first["gradient"], second["gradient"]] == pytest.approx(norms, rel=1e-4)
    logged = [entry["loss"] for entry in learning.figures["steps"]]
    assert logged == pytest.approx([loss.item() for loss in losses], rel=1e-5)


def test_steps_hold_the_accuracy_of_the_tasks_so_far():
    result = run(tiny.recipe(every=5))
    assert [(entry["task"], entry["step"], list(entry["accuracy"])) for entry in result.steps] == [
        (number, step, [f"task {index}" for index in range(1, number + 1)])
        for number in (1, 2, 3) for step in (5, 10)]
    for row, entry in zip(result.accuracy[1:], result.steps[1::2], strict=True):
        assert list(entry["accuracy"].values()) == row[: entry["task"]].tolist()


@pytest.mark.parametrize("scenario", ["task", "class"])
def test_accuracy_and_correctness_by_hand(scenario):
    learning = learned(tiny.recipe(scenario=scenario), tasks=2)
    columns = {"task": [(0, 1), (2, 3), (4, 5)], "class": [(0, 1, 2, 3), (0, 1, 2, 3), (0, 1, 2, 3, 4, 5)]}[scenario]
    learning.model.eval()
    for task, own, accuracy in zip(learning.sequence, columns, learning.figures["accuracy"][2], strict=True):
        best = learning.model(task.test.inputs)[:, list(own)].argmax(dim=1)
        right = torch.tensor(own)[best] == task.test.targets
        assert accuracy == right.double().mean().item()


def test_row_0_is_the_model_as_given():
    recipe = tiny.recipe()
    model = recipe.model_of(recipe.sequence, SEED)
    given = Monitor(model, recipe.sequence, every=1).measure()
    result = run(recipe, SEED)
    assert result.accuracy[0].tolist() == list(given.values())
    assert all(flags.mean() == result.accuracy[row, column]
               for row, cells in enumerate(result.correct) for column, flags in enumerate(cells))


def test_moving_statistics_forget_and_still_ones_do_not():
    moving = learned(tiny.recipe(pretrained=True, norm_statistics="moving"))
    still = learned(tiny.recipe(pretrained=True))
    assert torch.equal(still.model[1].running_mean, still.given["1.running_mean"])
    assert not torch.equal(moving.model[1].running_mean, moving.given["1.running_mean"])
    assert still.result().restored == still.figures["accuracy"][-1][0]
    before = copy.deepcopy(moving.model.state_dict())
    restored = moving.result().restored
    assert all(torch.equal(value, before[name]) for name, value in moving.model.state_dict().items())
    moving.model[1].running_mean.copy_(moving.given["1.running_mean"])
    moving.model[1].running_var.copy_(moving.given["1.running_var"])
    assert restored == Monitor(moving.model, moving.sequence, every=1).measure()["task 1"]
    assert run(tiny.recipe(network=tiny.plain_network)).restored is None


def test_from_scratch_the_source_moves_its_statistics_even_where_later_tasks_keep_them():
    learning = learned(tiny.recipe(norm_statistics="still"))
    assert torch.equal(learning.model[1].running_mean, learning.statistics["1.running_mean"])
    assert not torch.equal(learning.model[1].running_mean, learning.given["1.running_mean"])


def test_statistics_move_by_default_from_scratch():
    learning = learned(tiny.recipe())
    assert not torch.equal(learning.model[1].running_mean, learning.statistics["1.running_mean"])


def test_drift_by_hand():
    learning = learned(tiny.recipe())
    drift = learning.result().drift
    for name, parameter in learning.model.named_parameters():
        before = learning.given[name].double()
        size = before.norm() or 1.0
        assert drift[name] == pytest.approx(float((parameter.detach().double() - before).norm() / size))


def test_a_network_may_come_pretrained():
    recipe = tiny.recipe(pretrained=True, pretraining_epochs=0)
    result = run(recipe, SEED)
    model = recipe.model_of(recipe.sequence, SEED)
    assert result.accuracy[1].tolist() == list(Monitor(model, recipe.sequence, every=1).measure().values())


def test_a_part_that_the_owner_put_into_eval_mode_stays_so():
    def held(sequence):
        model = tiny.network(sequence).eval()
        model.training = True
        return model

    def pretrained(sequence):
        return tiny.network(sequence).eval()

    assert torch.equal(learned(tiny.recipe(network=held)).model[1].running_mean, torch.zeros(12))
    assert not torch.equal(learned(tiny.recipe(network=pretrained)).model[1].running_mean, torch.zeros(12))


def test_weight_decay_by_hand():
    recipe = tiny.recipe(network=tiny.plain_network, momentum=0.0, weight_decay=0.5, epochs=1, batch=50)
    model = recipe.model_of(recipe.sequence, SEED)
    decayed = {name: parameter.detach() * (1 - 0.1 * 0.5) for name, parameter in model.named_parameters()}
    plain = copy.deepcopy(model)
    by_hand(tiny.recipe(network=tiny.plain_network, momentum=0.0, epochs=1, batch=50), 1, plain,
            recipe.sequence[0].train, (0, 1))
    ours = dict(learned(recipe, tasks=1).model.named_parameters())
    for (name, start), end in zip(model.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours[name], decayed[name] + end - start, rtol=1e-5, atol=1e-6)
