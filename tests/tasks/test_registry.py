"""The standard sequences: what they hold, what leaks nowhere, what depends on a seed, what they cost."""

from pathlib import Path

import pytest
import torch

from forgetting.tasks import Rotation, data, describe, names, sequence
from tests.tasks.images import small_cifar, write_mnist

PAGE = Path(__file__).parents[2] / "docs" / "sequences.md"
DIGITS = [name for name in names() if "digits" in name]
FINGERPRINTS = {
    "digits-transfer": "5ff0c1cfaeb5adbf",
    "digits-halves": "43905faa30e383ae",
    "split-digits": "ccbf9d10b935f2d3",
    "permuted-digits": "b381a31d415afffa",
    "rotated-digits": "135128cfa4600252",
}


@pytest.fixture(autouse=True)
def small_mnist(tmp_path, monkeypatch):
    monkeypatch.setenv("FORGETTING_DATA", str(tmp_path))
    write_mnist(tmp_path)
    write_mnist(tmp_path, name="FashionMNIST")
    monkeypatch.setattr(data, "read_cifar", small_cifar)


def stored(examples):
    """The images as they are stored, by their bytes, whatever view they are seen through."""
    return {image.numpy().tobytes() for block in examples._blocks for image in block.content.tensor}


def test_the_names_are_those_that_others_rely_on():
    assert names() == (
        "digits-transfer", "digits-halves", "split-digits", "permuted-digits", "rotated-digits",
        "split-mnist", "permuted-mnist", "rotated-mnist",
        "split-fashion-mnist", "permuted-fashion-mnist", "rotated-fashion-mnist", "mnist-fashion-mnist",
        "split-cifar10", "cifar10-halves", "split-cifar100",
    )


def test_the_page_lists_every_sequence_as_it_is():
    rows = [line.strip("| ").split(" | ") for line in PAGE.read_text(encoding="utf-8").splitlines() if "|" in line]
    listed = {row[0].strip("`"): row[1:] for row in rows}
    for name in names():
        said = describe(name)
        scenarios, variations = (", ".join(some) for some in (said.scenarios, said.variations))
        assert listed[name] == [said.text, scenarios, "yes" if said.pretrained else "no", variations]


@pytest.mark.parametrize("name", names())
def test_every_sequence_is_what_its_description_says(name):
    found, said = sequence(name), describe(name)
    assert (found.name, found.scenario, found.pretrained) == (said.name, said.scenario, said.pretrained)
    assert found.pretrained == (name.startswith("digits-") or name in ("mnist-fashion-mnist", "cifar10-halves"))
    assert "\n" not in said.text
    for scenario in said.scenarios:
        assert sequence(name, scenario=scenario).scenario == scenario


@pytest.mark.parametrize("name", names())
def test_no_image_that_is_tested_on_is_learned_from_in_any_task(name):
    found = sequence(name)
    parts = [set().union(*(stored(task.parts[part]) for task in found)) for part in range(3)]
    assert all(parts)
    assert len(set().union(*parts)) == sum(map(len, parts))


def test_no_turned_test_image_is_among_the_training_images_of_the_transfer():
    source, target = sequence("digits-transfer")
    upright = {image.rot90(-1, (-2, -1)).contiguous().numpy().tobytes() for image in target.test.inputs}
    assert upright == {image.numpy().tobytes() for image in source.test.inputs}
    for task in (source, target):
        learned = {image.numpy().tobytes() for image in task.train.inputs}
        assert not learned & {image.numpy().tobytes() for other in (source, target) for image in other.test.inputs}


@pytest.mark.parametrize("name", ["digits-halves", "split-digits", "split-mnist"])
def test_split_tasks_have_no_class_in_common_and_together_all(name):
    for scenario in ("task", "class"):
        found = sequence(name, scenario=scenario)
        classes = [set(task.train.targets.tolist()) for task in found]
        assert sum(map(len, classes)) == 10 == len(set().union(*classes))
        assert [tuple(sorted(seen)) for seen in classes] == [task.outputs for task in found]
    shared = sequence(name, scenario="domain")
    assert {task.outputs for task in shared} == {tuple(range(shared.classes))}
    assert shared.classes == 10 // len(shared)


def test_cifar_100_is_ten_tasks_of_ten_classes_in_colour():
    found = sequence("split-cifar100")
    assert (len(found), found.classes, found.input_shape) == (10, 100, (3, 32, 32))
    assert found[3].outputs == tuple(range(30, 40))
    assert [len(task.validation) for task in found] == [10] * 10
    assert (len(sequence("split-cifar10")), sequence("split-cifar10").classes) == (5, 10)


def test_mnist_goes_over_to_fashion_mnist():
    for scenario, classes in (("task", 20), ("class", 20), ("domain", 10)):
        source, target = found = sequence("mnist-fashion-mnist", scenario=scenario)
        assert (found.classes, source.name, target.name) == (classes, "MNIST", "Fashion-MNIST")
        assert target.outputs == tuple(range(classes - 10, classes))
        assert torch.equal(source.test.inputs, sequence("split-mnist", tasks=1)[0].test.inputs)
        assert torch.equal(target.test.inputs, sequence("split-fashion-mnist", tasks=1)[0].test.inputs)


@pytest.mark.parametrize("name", ["split-digits", "split-mnist"])
def test_domain_incremental_pairs_are_even_and_odd(name):
    own, shared = sequence(name), sequence(name, scenario="domain")
    for ours, theirs in zip(own, shared, strict=True):
        assert torch.equal(theirs.test.targets, ours.test.targets % 2)


@pytest.mark.parametrize("name", ["permuted-digits", "permuted-mnist"])
def test_the_first_permuted_task_is_natural_and_the_others_only_move_pixels(name):
    found = sequence(name)
    natural = sequence(name.replace("permuted", "rotated"))[0]
    assert len(found) == 10
    assert torch.equal(found[0].test.inputs, natural.test.inputs)
    for task in found[1:]:
        assert not torch.equal(task.test.inputs, natural.test.inputs)
        assert torch.equal(task.test.inputs.flatten(1).sort(1).values, natural.test.inputs.flatten(1).sort(1).values)


@pytest.mark.parametrize("name", ["rotated-digits", "rotated-mnist"])
def test_rotated_tasks_turn_by_45_degrees(name):
    found = sequence(name)
    assert [task.name for task in found] == ["0°", "45°", "90°", "135°", "180°"]
    assert torch.equal(found[4].test.inputs, found[0].test.inputs.flip(-1, -2))
    assert torch.equal(found[2].test.inputs, found[0].test.inputs.rot90(1, (-2, -1)))
    assert torch.equal(found[1].test.inputs, Rotation(45)(found[0].test.inputs))
    assert torch.equal(sequence(name, interpolation="nearest")[1].test.inputs,
                       Rotation(45, "nearest")(found[0].test.inputs))


@pytest.mark.parametrize("name", names())
def test_a_seed_decides_validation_and_permutations_and_nothing_else(name):
    first, again, other = sequence(name, seed=3), sequence(name, seed=3), sequence(name, seed=4)
    assert first.fingerprint() == again.fingerprint() != other.fingerprint()
    for number, (ours, theirs) in enumerate(zip(first, other, strict=True)):
        assert ours.validation.fingerprint() != theirs.validation.fingerprint()
        moved = name.startswith("permuted") and number > 0
        assert (ours.test.fingerprint() == theirs.test.fingerprint()) != moved
        assert (ours.name, ours.outputs) == (theirs.name, theirs.outputs)


@pytest.mark.parametrize("name", DIGITS)
def test_the_digits_sequences_are_the_same_on_every_machine(name):
    assert sequence(name).fingerprint() == FINGERPRINTS[name]


def test_the_global_random_state_is_left_alone():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    for name in names():
        sequence(name)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", ["permuted-mnist", "rotated-mnist"])
def test_many_tasks_hold_their_images_once_a_byte_a_pixel(name):
    found = sequence(name)
    held = {}
    for task in found:
        for part in task.parts:
            for block in part._blocks:
                storage = block.content.tensor.untyped_storage()
                held[storage.data_ptr()] = storage.nbytes()
    assert sum(held.values()) == 480 * 28 * 28


def test_an_unknown_sequence_names_the_nearest():
    for ask in (sequence, describe):
        with pytest.raises(ValueError, match=r"'split_mnst'; did you mean 'split-mnist'\?.*Known: digits"):
            ask("split_mnst")


@pytest.mark.parametrize(
    ("name", "scenario", "words"),
    [
        ("permuted-digits", "task", "permuted-digits cannot be 'task'-incremental; possible: 'domain'"),
        ("rotated-mnist", "class", "rotated-mnist cannot be 'class'-incremental; possible: 'domain'"),
        ("split-digits", "online", "possible: 'task', 'domain', 'class'"),
    ],
)
def test_a_scenario_that_cannot_be_names_those_that_can(name, scenario, words):
    with pytest.raises(ValueError, match=words):
        sequence(name, scenario=scenario)


def test_negative_seeds_are_refused():
    with pytest.raises(ValueError, match="a seed is at least 0, not -1"):
        sequence("split-digits", seed=-1)
