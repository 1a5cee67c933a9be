"""Sequences of pretrained image classifiers: what the source is, disjoint images, columns, and a whole run."""

import pickle

import pytest
import torch

from forgetting import methods
from forgetting.protocol import Recipe, run
from forgetting.tasks import images
from forgetting.tasks.images import image_sequence
from forgetting.tasks.pretrained import Classifier
from forgetting.tasks.sizes import Sizes
from tests.retention import made

pytest.importorskip("timm", reason="timm is not installed (extra: vision)")
FEW = Sizes(train=12, validation=6, test=8, source_test=20)
NETWORK = Classifier("test_efficientnet", "none", 32)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        made.images(patch, tmp_path_factory.mktemp("data"))
        yield


@pytest.fixture(scope="module")
def sequence(data):
    return image_sequence(NETWORK, FEW)


def test_every_task_has_columns_of_its_own(sequence):
    columns = NETWORK.classes()
    assert [task.name for task in sequence] == ["source (agreement)", "CIFAR-10", "Fashion-MNIST", "MNIST"]
    assert [task.outputs[0] for task in sequence] == [0, columns, columns + 10, columns + 20]
    assert (sequence.scenario, sequence.classes, sequence.pretrained) == ("task", columns + 30, True)
    assert [len(part) for part in sequence[0].parts] == [12, 12, 20]
    assert [len(part) for task in list(sequence)[1:] for part in task.parts] == [12, 6, 8] * 3
    assert sequence.input_shape == (3, 32, 32)


def test_no_image_of_cifar_is_in_two_parts(sequence):
    seen = torch.cat([part.inputs for task in list(sequence)[:2] for part in task.parts]).flatten(1)
    assert len(seen.unique(dim=0)) == len(seen)


def test_gray_images_fill_three_equal_channels(sequence):
    found = sequence[3].train.inputs
    assert torch.equal(found[:, 0], found[:, 1])
    assert torch.equal(found[:, 0], found[:, 2])
    assert (found[:, :, :2] == 0).all()
    assert found.max() > 0.9


def test_the_source_is_known_to_the_last_image_and_the_run_goes_through(sequence):
    recipe = Recipe(sequence, methods.get("finetune"), network=NETWORK, rate=0.05, momentum=0.9, epochs=1, batch=4,
                    pretraining_epochs=0, every=100)
    result = run(recipe)
    assert result.accuracy.shape == (5, 4)
    assert result.accuracy[0, 0] == result.accuracy[1, 0] == 1.0
    assert result.accuracy[-1, 0] < 1.0
    assert result.recipe["network"] == "test_efficientnet"


def test_a_rotation_asks_for_the_answers_to_the_upright_image(data):
    sequence = image_sequence(NETWORK, FEW, shift="rotation")
    upright, turned = sequence
    assert (sequence.scenario, sequence.classes) == ("domain", NETWORK.classes())
    assert torch.equal(upright.test.targets, turned.test.targets)
    assert torch.equal(torch.rot90(upright.test.inputs, 1, dims=(-2, -1)), turned.test.inputs)


def test_a_corruption_asks_for_the_answers_to_the_clean_image(data):
    sequence = image_sequence(NETWORK, FEW, shift="corruption")
    clean, *worse = sequence
    assert (sequence.name, sequence.scenario) == ("test_efficientnet-corruption", "domain")
    assert [task.name for task in worse] == [f"source under {kind}" for kind in images.KINDS]
    for task, kind in zip(worse, images.KINDS, strict=True):
        assert torch.equal(clean.test.targets, task.test.targets)
        parts = zip((clean.train, clean.validation, clean.test), (task.train, task.validation, task.test), strict=True)
        for seed, (part, changed) in enumerate(parts):  # no two parts share their noise
            assert torch.equal(images.corrupted(part, kind, images.SEVERITY, seed=seed).inputs, changed.inputs)
        assert not torch.equal(clean.test.inputs, task.test.inputs)
    again = image_sequence(NETWORK, FEW, shift="corruption")
    assert again.fingerprint() == sequence.fingerprint()


def test_the_users_labels_are_kept_and_targets_take_their_size(data):
    given = images.unlabelled(FEW)[0].map(lambda part: images._resized(part, 24))
    sequence = image_sequence(NETWORK, FEW, source=given, targets=("MNIST",))
    assert [task.name for task in sequence] == ["source (labels)", "MNIST"]
    assert torch.equal(sequence[0].test.targets, given.test.targets)
    assert sequence.input_shape == (3, 24, 24)


def test_more_than_there_is_is_refused(data):
    with pytest.raises(ValueError, match="cifar10 test: 108 examples were asked for, and there are 60"):
        images.unlabelled(Sizes(train=6, validation=2, test=8, source_test=100))


def test_a_recipe_goes_to_another_process(sequence):
    recipe = Recipe(sequence, methods.get("l2sp", strength=1.0), network=NETWORK, pretraining_epochs=0)
    again = pickle.loads(pickle.dumps(recipe))
    assert again.as_data() == recipe.as_data()
    assert again.sequence_of(0).fingerprint() == sequence.fingerprint()
    first, second = (each.model_of(sequence, 3).state_dict() for each in (recipe, again))
    assert all(torch.equal(first[name], second[name]) for name in first)
