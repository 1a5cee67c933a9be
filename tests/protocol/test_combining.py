"""Methods that act together do what each of them does."""

import dataclasses

import pytest
import torch
from torch.optim.lr_scheduler import LambdaLR

from forgetting import methods
from forgetting.parameters import Handle
from forgetting.protocol import Method, combine, run
from forgetting.protocol.learning import Learning
from tests.protocol import tiny


def learned(method, **fields):
    """The weights after all tasks."""
    learning = Learning(tiny.recipe(method, pretrained=True, **fields), 0, lambda _: None)
    learning.pretrain("key")
    learning.begin()
    for number in (2, 3):
        learning.learn(number)
    return learning


def test_settings_rate_and_name_say_all():
    both = combine(Method("slow", {"rate": 0.5}, rate=0.5), Method("slower", rate=0.1), Method("all", joint=True))
    assert (both.name, both.rate, both.joint) == ("slow+slower+all", pytest.approx(0.05), True)
    assert both.settings == {"slow.rate": 0.5}
    assert [part.name for part in both.parts] == ["slow", "slower", "all"]
    assert combine(both, Method("more")).name == "slow+slower+all+more"


def test_two_penalties_pull_together():
    """Both leave the weights nearer to the start than one alone."""
    alone, both = learned(tiny.l2sp(0.1)), learned(combine(tiny.l2sp(0.1), tiny.ewc(10.0)))

    def moved(learning):
        return sum(float((weight.detach() - learning.given[name]).square().sum())
                   for name, weight in learning.model.named_parameters())

    assert moved(both) < 0.9 * moved(alone)
    assert set(both.regularizers) == {"l2sp", "ewc"}
    assert both.figures["penalties"][-1]["penalty"] > 0


def test_a_penalty_of_strength_0_beside_another_changes_nothing():
    alone = learned(tiny.ewc(3.0)).model.state_dict()
    both = learned(combine(tiny.ewc(3.0), tiny.l2sp(0.0, mode="gradient"))).model.state_dict()
    assert all(torch.equal(both[name], value) for name, value in alone.items())


@pytest.mark.parametrize(("scenario", "columns"), [("class", (0, 1, 2, 3, 4, 5)), ("task", None)])
def test_old_examples_compete_with_what_their_scenario_says(scenario, columns):
    """In class-incremental learning all classes so far, else each task's own."""
    learning = Learning(tiny.recipe(methods.get("replay", share=0.5), scenario), 0, lambda _: None)
    learning.begin()
    for number in (1, 2, 3):
        learning.learn(number)
    assert learning.regularizers["replay"].columns == columns


def test_each_keeps_its_own_mode():
    """Of the loss only the part in loss mode is a term; the other pulls by its hook."""
    loss = learned(combine(tiny.ewc(3.0), tiny.l2sp(0.3, mode="gradient")), momentum=0.0).model.state_dict()
    both = learned(combine(tiny.ewc(3.0), tiny.l2sp(0.3)), momentum=0.0).model.state_dict()
    for name, value in both.items():
        torch.testing.assert_close(loss[name], value, rtol=1e-4, atol=1e-5)


def test_every_piece_of_every_part_acts():
    seen = []

    def prepare(name):
        def act(model, situation):
            seen.append((name, len(situation.before), situation.start != {}))
            return Handle(lambda: seen.append(f"{name} undone"))
        return act

    def average(model, situation):
        seen.append("averaged")

    one = Method("one", prepare=prepare("one"), average=average)
    two = Method("two", prepare=prepare("two"), follow=lambda model, optimizer, situation: Handle(
        lambda: seen.append("unfollowed")))
    learned(combine(one, two))
    assert seen[:6] == [("one", 1, True), ("two", 1, True), "unfollowed", "two undone", "one undone", "averaged"]
    assert len(seen) == 12


def test_an_interrupted_run_of_several_ends_alike(tmp_path):
    recipe = tiny.recipe(combine(tiny.ewc(3.0), tiny.l2sp(0.3, mode="proximal")), pretrained=True)
    whole = run(recipe, 0)
    learning = Learning(recipe, 0, lambda _: None)
    learning.pretrain("key")
    learning.begin()
    learning.learn(2)
    again = Learning(recipe, 0, lambda _: None)
    again.pretrain("key")
    again.begin()
    again.resume(learning.progress(), learning.state())
    again.learn(3)
    assert again.result().figures() == whole.figures()


def test_names_with_a_plus_are_combined():
    made = methods.get("ewc+layerwise-decay", sequence="digits-transfer", **{"ewc.strength": 7.0})
    assert made.settings["ewc.strength"] == 7.0
    assert made.settings["layerwise-decay.decay"] == 0.7
    assert run(tiny.recipe(made)).method == "ewc+layerwise-decay"
    several = (methods.get("ewc+freeze", **{"ewc.strength": strength}) for strength in (1.0, 2.0))
    keys = {dataclasses.replace(tiny.recipe(), method=method).key(0, "") for method in several}
    assert len(keys) == 2


@pytest.mark.parametrize(("call", "words"), [
    (lambda: combine(Method("one")), "at least two methods"),
    (lambda: combine(Method("one"), Method("one")), "each of another name, got one, one"),
    (lambda: methods.get("layerwise-decay+ewcc"), "no method 'ewcc'"),
    (lambda: methods.get("ewc+freeze", strength=1.0), "setting of 'ewc.freeze'"),
    (lambda: combine(Method("a", groups=lambda *_: []), Method("b", groups=lambda *_: [])),
     "a and b cannot be combined: each brings its own groups"),
])
def test_what_cannot_be_combined(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_two_schedules_of_the_rate_are_refused():
    one, two = (Method(name, schedule=lambda optimizer, situation: LambdaLR(optimizer, lambda step: 1.0))
                for name in ("one", "two"))
    with pytest.raises(ValueError, match="several schedules that set the rate"):
        run(tiny.recipe(combine(one, two)))
