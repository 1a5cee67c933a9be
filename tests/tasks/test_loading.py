"""Weights that the user pretrained: another number of classes, other positions, files that do not fit."""

import pytest
import torch
from torch import nn

from forgetting import tasks
from forgetting.protocol import Recipe, run
from forgetting.tasks import Classifier
from forgetting.tasks.images import image_sequence
from forgetting.tasks.sizes import Sizes
from tests.retention import made

timm = pytest.importorskip("timm", reason="timm is not installed (extra: vision)")
FEW = Sizes(train=8, validation=4, test=4, source_test=8)
SMALL = {"test_resnet": {}, "test_vit": {"img_size": 32}}


def saved(name, place, classes=10):
    """A small network of the user's own, with so many classes."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = timm.create_model(name, num_classes=classes, **SMALL[name])
    torch.save(model.state_dict(), place)
    return model.eval()


@pytest.mark.parametrize("name", SMALL)
def test_a_network_of_the_users_own_classes_is_what_it_was_and_learns_on(name, tmp_path, monkeypatch):
    made.images(monkeypatch, tmp_path / "data")
    model = saved(name, tmp_path / "own.pth")
    network = Classifier(name, str(tmp_path / "own.pth"), 32)
    assert network.classes() == 10
    images = torch.rand(2, 3, 32, 32)
    prepared = network.original()
    with torch.no_grad():
        expected = model((images - prepared.means) / prepared.deviations)
        torch.testing.assert_close(prepared(images), expected)
    sequence = image_sequence(network, FEW, targets=("MNIST",))
    assert sequence.classes == 20
    result = run(Recipe(sequence, network=network, rate=0.05, epochs=1, batch=4, pretraining_epochs=0, every=100))
    assert result.accuracy[0, 0] == result.accuracy[1, 0] == 1.0


def test_a_transformer_gets_as_many_positions_as_the_images_take(tmp_path):
    saved("test_vit", tmp_path / "own.pth")
    for weights, pixels in (("none", 48), (str(tmp_path / "own.pth"), 32)):
        network = Classifier("test_vit", weights, pixels)
        assert network.original()(torch.rand(1, 3, 32, 32)).shape == (1, network.classes())


def test_a_file_of_another_network_is_refused_with_what_differs(tmp_path):
    saved("test_vit", tmp_path / "own.pth")
    with pytest.raises(ValueError, match=r"does not fit VisionTransformer at 160 pixels: pos_embed .*, expected"):
        Classifier("test_vit", str(tmp_path / "own.pth"), 160).original()
    with pytest.raises(ValueError, match=r"own\.pth does not fit ResNet: \d+ tensors for \d+"):
        Classifier("test_resnet", str(tmp_path / "own.pth"), 32).original()


def test_the_small_transformer_comes_by_name():
    model = tasks.network("vit-small", sequence_of((3, 32, 32)))
    assert model(torch.rand(2, 3, 32, 32)).shape == (2, 10)
    assert isinstance(model.head, nn.Linear)
    assert sum(weights.numel() for weights in model.parameters()) < 2_000_000
    with pytest.raises(ValueError, match="8 × 8 patches, and these are 28 × 30"):
        tasks.network("vit-small", sequence_of((1, 28, 30)))


def sequence_of(shape):
    from tests.tasks.images import parts

    return tasks.split("pairs", parts(10, shape), 5)
