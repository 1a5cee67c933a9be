"""Classifiers by name: their own logits stay, new ones stand beside them; agreement with the model as given."""

import pickle

import pytest
import torch
from torch import nn

from forgetting.tasks import Examples, Task, TaskSequence
from forgetting.tasks.agreement import agreement
from forgetting.tasks.pretrained import Classifier, Heads, Prepared

timm = pytest.importorskip("timm", reason="timm is not installed (extra: vision)")
NAME = "test_efficientnet"  # timm's smallest, made for tests


def images(count=6, size=20):
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def sequence(columns):
    some = Examples(images(), torch.arange(6) % 2)
    return TaskSequence("made up", (Task("one", some, some, some, (0, 1)),), "task", columns, pretrained=True)


@pytest.mark.parametrize("name", [NAME, "test_vit", "torchvision:resnet18"])
def test_new_logits_stand_beside_the_models_own(name):
    if name.startswith("torchvision"):
        pytest.importorskip("torchvision", reason="torchvision is not installed (extra: vision)")
    size = 160 if "vit" in name else 32
    network = Classifier(name, "none", size)
    original, columns = network.original(), network.classes()
    model = network(sequence(columns + 3)).eval()
    with torch.no_grad():
        logits = model(images(2))
        assert logits.shape == (2, columns + 3)
        torch.testing.assert_close(logits[:, :columns], original(images(2)), rtol=1e-5, atol=1e-6)


def test_the_backbone_is_the_same_whatever_the_seed_and_the_heads_are_drawn():
    network = Classifier(NAME, "none", 32)
    found = []
    for seed in (0, 1):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            found.append(network(sequence(network.classes() + 2)).state_dict())
    differing = {name for name in found[0] if not torch.equal(found[0][name], found[1][name])}
    assert {name.rpartition(".targets.")[2] for name in differing} == {"weight", "bias"}


def test_the_global_generator_is_left_as_found():
    before = torch.get_rng_state()
    Classifier(NAME, "none", 32).original()
    assert torch.equal(before, torch.get_rng_state())


def test_weights_of_a_file_are_taken_by_name_or_by_position(tmp_path):
    with torch.random.fork_rng():
        torch.manual_seed(5)
        other = timm.create_model(NAME)
    own = other.state_dict()
    torch.save(own, tmp_path / "named.pth")
    torch.save({f"theirs.{place}": tensor for place, tensor in enumerate(own.values())}, tmp_path / "placed.pth")
    for file in ("named.pth", "placed.pth"):
        found = Classifier(NAME, str(tmp_path / file), 32).original().backbone.state_dict()
        assert all(torch.equal(found[name], own[name]) for name in own)
    torch.save({"one": torch.zeros(3)}, tmp_path / "wrong.pth")
    with pytest.raises(ValueError, match=r"wrong\.pth does not fit EfficientNet: 1 tensors for \d+"):
        Classifier(NAME, str(tmp_path / "wrong.pth")).original()
    with pytest.raises(ValueError, match=r"nowhere\.pth' is no file; expected one of tensors, 'hub' or 'none'"):
        Classifier(NAME, "nowhere.pth").original()


def test_pixels_are_resized_and_standardized():
    model = Prepared(nn.Flatten(), 2, [0.5, 0.0, 0.25], [0.5, 1.0, 0.25])
    found = model(torch.ones(1, 3, 8, 8)).view(3, 4)
    assert found.tolist() == [[1.0] * 4, [1.0] * 4, [3.0] * 4]


def test_errors_say_what_to_do():
    with pytest.raises(ValueError, match="there is no timm model 'resnet19'; did you mean 'resnet18'"):
        Classifier("resnet19", "none").original()
    network = Classifier(NAME, "none", 32)
    with pytest.raises(ValueError, match=rf"'made up' has 2 columns, and {NAME} brings \d+ of its own"):
        network(sequence(2))
    with pytest.raises(ValueError, match="the last layer of SqueezeNet is Conv2d, expected a linear one"):
        Classifier("torchvision:squeezenet1_1", "none", 32)(sequence(1003))


def test_a_network_goes_to_another_process_and_names_itself():
    network = Classifier(NAME, "none", 32)
    again = pickle.loads(pickle.dumps(network))
    assert (again, again.__qualname__) == (network, NAME)


def test_heads_keep_the_layer_that_they_are_given():
    source = nn.Linear(4, 3)
    heads = Heads(source, 2)
    features = torch.rand(5, 4)
    assert heads.source is source
    assert torch.equal(heads(features), torch.cat([source(features), heads.targets(features)], dim=1))


def test_agreement_is_the_models_own_answer_and_leaves_it_as_found():
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(12, 4))
    model[2].eval()
    examples = Examples(images(70, 2), torch.zeros(70, dtype=torch.int64))
    found = agreement(model, examples)
    assert torch.equal(found.targets, model[2](examples.inputs.flatten(1)).argmax(dim=1))
    assert torch.equal(found.inputs, examples.inputs)
    assert [module.training for module in model.modules()] == [True, True, True, False]
    with pytest.raises(ValueError, match=r"outputs of shape \(70, 3, 2, 2\)"):
        agreement(nn.Identity(), examples)
