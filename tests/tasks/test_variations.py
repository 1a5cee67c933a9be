"""The variations of the standard sequences: what each changes, what it leaves alone, who cannot take it."""

import os
from pathlib import Path

import pytest
import torch

from forgetting.protocol import Recipe
from forgetting.tasks import check_variation, data, describe, names, sequence
from forgetting.tasks.pixels import constants
from tests.tasks.images import small_cifar, write_mnist

REAL = Path(os.environ.get("FORGETTING_DATA", "nowhere"))


@pytest.fixture(autouse=True)
def small_data(request, tmp_path, monkeypatch):
    if "data" in request.keywords:
        return
    monkeypatch.setenv("FORGETTING_DATA", str(tmp_path))
    write_mnist(tmp_path)
    write_mnist(tmp_path, name="FashionMNIST")
    monkeypatch.setattr(data, "read_cifar", small_cifar)


def taking(variation):
    return [name for name in names() if variation in describe(name).variations]


def default(name):
    """Each variation that a sequence takes at what it is without being named, as far as that is one number for all."""
    takes = describe(name).variations
    usual = {"order": "fixed", "angles": "fixed", "padding": 0, "pixels": "unit", "masked": True}
    return {kind: value for kind, value in usual.items() if kind in takes}


def test_who_takes_what():
    every = {"validation", "padding", "pixels"}
    for name in names():
        split = {"tasks", "order", "masked"} if name.startswith("split") else set()
        permuted = {"tasks"} if name.startswith("permuted") else set()
        rotated = {"tasks", "angles", "interpolation"} if name.startswith("rotated") else set()
        transfer = {"masked"} if describe(name).pretrained else set()
        assert set(describe(name).variations) == every | split | permuted | rotated | transfer


@pytest.mark.parametrize("name", names())
def test_the_defaults_by_name_are_the_sequence_without_them(name):
    assert sequence(name, **default(name)).fingerprint() == sequence(name).fingerprint()


@pytest.mark.parametrize("name", taking("order"))
def test_a_permuted_order_deals_out_all_classes_by_the_seed_alone(name):
    fixed = sequence(name)
    first, again, other = (sequence(name, order="permuted", seed=seed) for seed in (0, 0, 1))
    dealt = [[column for task in found for column in task.outputs] for found in (fixed, first, again, other)]
    assert dealt[0] == sorted(dealt[0]) == sorted(dealt[1])
    assert dealt[1] == dealt[2] != dealt[3]
    assert dealt[1] != dealt[0]
    shared = sequence(name, order="permuted", scenario="domain")
    for ours, theirs in zip(first, shared, strict=True):
        assert torch.equal(torch.tensor(ours.outputs)[theirs.test.targets], ours.test.targets)
        assert ours.name == theirs.name == "-".join(map(str, ours.outputs))


def test_an_order_does_not_change_what_is_held_out():
    fixed, permuted = sequence("split-digits"), sequence("split-digits", order="permuted")
    held = [
        {image.numpy().tobytes() for task in found for image in task.validation.inputs} for found in (fixed, permuted)
    ]
    assert held[0] == held[1]


@pytest.mark.parametrize(("name", "tasks"), [
    ("split-digits", 2), ("split-mnist", 10), ("split-cifar100", 20), ("permuted-digits", 3), ("rotated-digits", 3),
    ("permuted-mnist", 1), ("rotated-mnist", 1),
])
def test_a_sequence_has_as_many_tasks_as_asked_for(name, tasks):
    found = sequence(name, tasks=tasks)
    assert len(found) == tasks
    if name.startswith("permuted"):
        assert [task.fingerprint() for task in found] == [task.fingerprint() for task in sequence(name)][:tasks]
    if name == "rotated-digits":
        assert [task.name for task in found] == ["0°", "90°", "180°"]


def test_drawn_angles_are_uniform_up_to_half_a_turn_and_come_from_the_seed():
    def angles(**more):
        found = sequence("rotated-digits", angles="drawn", **more)
        return [task.train._blocks[0].views[0].degrees for task in found]

    many = torch.tensor(angles(tasks=400))
    assert bool(((many >= 0) & (many < 180)).all())
    counts = torch.histc(many, bins=6, min=0, max=180)
    assert float((counts - 400 / 6).abs().max()) < 4 * (400 / 6) ** 0.5
    assert angles(tasks=3) == angles(tasks=5)[:3] == angles()[:3]
    assert len(angles()) == 5
    assert angles(seed=1) != angles()


@pytest.mark.parametrize("name", names())
def test_nothing_is_held_out_by_request(name):
    usual, whole = sequence(name), sequence(name, validation=0.0)
    for ours, theirs in zip(usual, whole, strict=True):
        assert len(theirs.validation) == 0
        assert len(theirs.train) == len(ours.train) + len(ours.validation)
        assert theirs.test.fingerprint() == ours.test.fingerprint()


@pytest.mark.parametrize("name", names())
def test_standard_pixels_have_mean_0_and_deviation_1_over_the_training_images(name):
    unit, standard = sequence(name), sequence(name, pixels="standard")
    tasks = 1 if describe(name).pretrained and "halves" not in name else len(unit)
    pixels = torch.cat([part.inputs for task in standard.tasks[:tasks] for part in (task.train, task.validation)])
    if not name.startswith("rotated"):
        dimensions = (0, 2, 3)
        assert float(pixels.double().mean(dimensions).abs().max()) < 5e-4
        assert float((pixels.double().std(dimensions, correction=0) - 1).abs().max()) < 5e-4
    means, deviations = standard[0].train._blocks[0].views[-1]._constants.view(2, -1, 1, 1)
    for ours, theirs in zip(unit, standard, strict=True):
        for part, seen in zip(ours.parts, theirs.parts, strict=True):
            assert torch.equal(seen.inputs, (part.inputs - means) / deviations)


def test_the_constants_are_those_of_all_training_images_whatever_is_held_out():
    written = data.mnist(validation=0.0).train.inputs.double()
    expected = ((round(float(written.mean()), 4),), (round(float(written.std(correction=0)), 4),))
    for seed, share in ((0, 0.0), (1, 0.25), (2, 0.5)):
        parts = data.mnist(seed, validation=share)
        assert constants(parts.train, parts.validation) == expected
    floats = data.digits(validation=0.0).train.inputs
    parts = data.digits(3)
    assert constants(parts.train, parts.validation)[0][0] == pytest.approx(float(floats.mean()), abs=5e-5)


@pytest.mark.parametrize("name", taking("masked"))
def test_all_logits_compete_by_request(name):
    found = sequence(name, scenario="class", masked=False)
    assert found.columns(0, 0) == tuple(range(found.classes))
    assert found.fingerprint() != sequence(name, scenario="class").fingerprint()


def test_variations_go_together():
    found = sequence("split-mnist", scenario="class", tasks=2, order="permuted", validation=0, padding=2,
                     pixels="standard", masked=False, seed=3)
    assert (len(found), found.input_shape, len(found[1].validation)) == (2, (1, 32, 32), 0)
    assert float(found[0].train.inputs[0, 0, 0, 0]) == pytest.approx(
        -found[0].train._blocks[0].views[0].means[0] / found[0].train._blocks[0].views[0].deviations[0]
    )


REFUSED = [
    ("split-mnist", {"ordr": "fixed"}, "split-mnist: there is no variation 'ordr'; did you mean 'order'"),
    ("permuted-mnist", {"order": "permuted"}, "permuted-mnist: there is no variation 'order'"),
    ("digits-halves", {"tasks": 2}, "digits-halves: there is no variation 'tasks'"),
    ("split-digits", {"angles": "drawn"}, "no variation 'angles'"),
    ("rotated-digits", {"masked": True}, "no variation 'masked'"),
    ("split-mnist", {"order": "random"}, "order='random'; it is one of 'fixed', 'permuted'"),
    ("rotated-mnist", {"angles": 3}, "angles=3; it is one of 'fixed', 'drawn'"),
    ("split-mnist", {"pixels": None}, "pixels=None; it is one of 'unit', 'standard'"),
    ("split-mnist", {"tasks": 3}, r"10 classes do not divide into 3 tasks; possible: \[1, 2, 5, 10\]"),
    ("split-cifar100", {"tasks": 3}, "100 classes do not divide into 3 tasks"),
    ("permuted-digits", {"tasks": 0}, "tasks=0; expected a whole number of at least 1"),
    ("permuted-digits", {"tasks": True}, "tasks=True; expected a whole number"),
    ("permuted-digits", {"tasks": 2.0}, "tasks=2.0; expected a whole number"),
    ("split-mnist", {"padding": -1}, "padding=-1; expected a whole number of at least 0"),
    ("split-mnist", {"validation": 1.0}, "validation=1.0; expected a share of at least 0 and below 1"),
    ("split-mnist", {"validation": float("nan")}, "validation=nan; expected a share"),
    ("split-mnist", {"validation": False}, "validation=False; expected a share"),
    ("split-mnist", {"masked": 0}, "masked=0; expected True or False"),
    ("split-mnist", {"masked": False}, "masked=False .*scenario 'class', not for 'task'"),
    ("split-minst", {}, "no sequence 'split-minst'; did you mean 'split-mnist'"),
]


@pytest.mark.parametrize(("name", "variation", "words"), REFUSED)
def test_what_cannot_be_is_refused_before_any_data_are_read(name, variation, words, monkeypatch):
    monkeypatch.setenv("FORGETTING_DATA", "nowhere")
    with pytest.raises(ValueError, match=words):
        sequence(name, **variation)
    if variation.get("masked", True) is not False:
        with pytest.raises(ValueError, match=words):
            check_variation(name, variation)


def test_a_check_knows_the_scenario_where_it_is_told():
    check_variation("split-mnist", {"masked": False})
    check_variation("split-mnist", {"masked": False}, "class")
    check_variation("split-mnist", {"masked": True}, "task")
    with pytest.raises(ValueError, match="not for 'domain'; leave it out or ask for that scenario"):
        check_variation("split-mnist", {"masked": False}, "domain")
    with pytest.raises(ValueError, match="cannot be 'online'-incremental"):
        check_variation("split-mnist", {}, "online")


@pytest.mark.data
@pytest.mark.skipif(not (REAL / "FashionMNIST" / "raw").is_dir(), reason="no FashionMNIST/raw in FORGETTING_DATA")
@pytest.mark.parametrize(("read", "padding", "published"), [
    (data.mnist, 0, (0.1307, 0.3081)), (data.mnist, 2, (0.1000, 0.2752)), (data.fashion_mnist, 0, (0.2860, 0.3530)),
])
def test_the_constants_are_the_published_ones(read, padding, published):
    parts = read(padding=padding)
    assert sum(constants(parts.train, parts.validation), ()) == published


@pytest.mark.data
@pytest.mark.skipif(not (REAL / "MNIST" / "raw").is_dir(), reason="no MNIST/raw in FORGETTING_DATA")
@pytest.mark.parametrize(("name", "known"), [
    ("split-mnist", "f445d8a58a3f9627"), ("permuted-mnist", "75a79b017cbb11b9"), ("rotated-mnist", "fd8b3b0d7701a9bf"),
])
def test_the_real_sequences_are_those_that_results_were_measured_on(name, known):
    assert sequence(name).fingerprint() == known


def test_a_variation_that_names_no_value_says_how_it_is_written():
    with pytest.raises(TypeError, match=r"such as \{'tasks': 2\}, not 'tasks'; on the command line"):
        Recipe("split-digits", variation="tasks")
