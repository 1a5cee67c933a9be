"""Small networks for the named sequences; the last layer is ``head`` and gives ALL logits."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable

from torch import Tensor, nn

from forgetting.tasks.task import TaskSequence
from forgetting.tasks.unknown import nearest


class Average(nn.Module):
    """The mean over height and width; its gradient on a GPU is the same in every run, unlike adaptive pooling's."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.mean(dim=(-2, -1))


def network(name: str, sequence: TaskSequence) -> nn.Module:
    """A new network for a sequence's inputs and classes, initialised as torch does it.

    Weights are drawn from torch's global generator, as every module's are: seed it before
    (``torch.random.fork_rng`` keeps it for others).

    Args:
        name: ``"mlp"``: two hidden layers with ReLU, of 128 units up to 256 inputs and of 400 above
            (64-128-128-C for the digits, 784-400-400-C for MNIST). ``"cnn"``: three 3 × 3 convolutions of 16, 32 and
            64 channels with BatchNorm and ReLU, the last two with stride 2; mean over positions; one linear layer.
        sequence: gives the input shape and the number of logits C.

    Raises:
        ValueError: an unknown name, or a "cnn" for inputs that are no images.

    Example:
        >>> from forgetting.tasks.registry import sequence
        >>> network("mlp", sequence("digits-transfer")).head
        Linear(in_features=128, out_features=10, bias=True)
    """
    if name not in _NETWORKS:
        raise ValueError(nearest("network", name, _NETWORKS))
    body, features = _NETWORKS[name](sequence.input_shape)
    return nn.Sequential(OrderedDict(body=body, head=nn.Linear(features, sequence.classes)))


def _mlp(shape: tuple[int, ...]) -> tuple[nn.Module, int]:
    """The hidden layers, and how many features they give."""
    inputs = math.prod(shape)
    hidden = 128 if inputs <= 256 else 400
    layers = [nn.Flatten(), nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU()]
    return nn.Sequential(*layers), hidden


def _cnn(shape: tuple[int, ...]) -> tuple[nn.Module, int]:
    """The convolutions, and how many features they give."""
    if len(shape) != 3:
        raise ValueError(f'a "cnn" takes images [channels, height, width], not inputs of shape {shape}; try "mlp"')
    layers: list[nn.Module] = []
    channels = shape[0]
    for width, stride in ((16, 1), (32, 2), (64, 2)):
        convolution = nn.Conv2d(channels, width, kernel_size=3, stride=stride, padding=1, bias=False)
        layers += [convolution, nn.BatchNorm2d(width), nn.ReLU()]
        channels = width
    return nn.Sequential(*layers, Average()), channels


_NETWORKS: dict[str, Callable[[tuple[int, ...]], tuple[nn.Module, int]]] = {"mlp": _mlp, "cnn": _cnn}
