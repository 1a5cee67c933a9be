"""Pretrained networks of the study, the same ones from scratch, and their targets."""

import pytest
import torch

from benchmarks.retention import transfer_networks as networks
from forgetting import tasks
from forgetting.tasks import DataSplit, Examples, Task, TaskSequence
from forgetting.tasks.pretrained import NONE, Classifier
from forgetting.tasks.sizes import Sizes
from tests.retention.made import images


def sequence(columns, shape=(1, 8, 8)):
    some = Examples(torch.zeros(2, *shape), torch.tensor([0, 1]))
    return TaskSequence("some", (Task.of("some", DataSplit(some, some, some), range(2)),), "domain", columns,
                        pretrained=False)


def made(network, seed, columns=1002):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return dict(network(sequence(columns, (3, 32, 32))).named_parameters())


def test_from_scratch_every_layer_is_drawn_anew():
    pytest.importorskip("timm")
    like = Classifier("test_resnet", NONE, 32)
    first, again, other, pretrained = made(networks.Fresh(like), 0), made(networks.Fresh(like), 0), made(
        networks.Fresh(like), 1), made(like, 0)
    assert list(first) == list(pretrained)
    assert all(torch.equal(first[name], again[name]) for name in first)
    drawn = [name for name, weight in first.items() if weight.ndim > 1]
    assert drawn
    for name in drawn:
        assert not torch.equal(first[name], other[name])
        assert not torch.equal(first[name], pretrained[name])


def test_hidden_layers_are_taken_from_the_file_and_the_head_is_fresh(tmp_path):
    source = tasks.network("mlp", sequence(10))
    torch.save(source.get_submodule("body").state_dict(), tmp_path / "known.pt")
    network = networks.Saved(tmp_path / "known.pt")
    model = network(sequence(10))
    for name, weight in source.named_parameters():
        assert torch.equal(model.get_parameter(name), weight) == name.startswith("body"), name
    assert network.__qualname__ == "mlp of known"


def test_what_was_pretrained_is_not_learned_again(tmp_path):
    (tmp_path / "mnist.pt").write_bytes(b"as it was")
    assert networks.pretrain("mnist", tmp_path).read_bytes() == b"as it was"


def test_pretraining_learns_and_leaves_the_generator_alone():
    inputs = torch.rand(64, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    targets = (inputs.mean(dim=(1, 2, 3)) > 0.5).long()
    before = torch.get_rng_state()
    model = networks._learned(inputs, targets)
    assert torch.equal(torch.get_rng_state(), before)
    assert (model(inputs).argmax(1) == targets).double().mean() > 0.7


def test_no_target_has_an_image_that_was_pretrained_on(tmp_path, monkeypatch):
    images(monkeypatch, tmp_path)
    monkeypatch.setattr(networks, "_IMAGES", 100)
    seen = []
    monkeypatch.setattr(networks, "_learned", lambda inputs, targets: seen.append(inputs) or tasks.network(
        "mlp", sequence(10, tuple(inputs.shape[1:]))))
    networks.pretrain("mnist", tmp_path / "weights")
    found = networks.target("MNIST", Sizes(60, 10, 20), None)
    own = {bytes(image.numpy()) for part in (found.train, found.validation) for image in part.inputs}
    assert len(own) == 70
    assert not own & {bytes(image.numpy()) for image in seen[0]}
