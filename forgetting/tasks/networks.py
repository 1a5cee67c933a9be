"""Small networks for the named sequences; the last layer is ``head`` and gives ALL logits."""

from __future__ import annotations

import math
import re
from collections import OrderedDict
from collections.abc import Callable, Sequence

from torch import Tensor, nn

from forgetting.tasks.residual import residual
from forgetting.tasks.task import TaskSequence
from forgetting.tasks.unknown import nearest

_KNOWN = ("mlp", "mlp-400-400", "mlp-tanh-200", "cnn", "resnet18-reduced", "vit-small")
_SIZED = re.compile(r"mlp(-tanh)?((?:-[1-9]\d*)+)")


class Average(nn.Module):
    """The mean over height and width; its gradient on a GPU is the same in every run, unlike adaptive pooling's."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.mean(dim=(-2, -1))


def network(name: str, sequence: TaskSequence) -> nn.Module:
    """A new network for a sequence's inputs and classes, initialised as torch does it.

    Weights are drawn from torch's global generator, as every module's are: seed it before
    (``torch.random.fork_rng`` keeps it for others).

    ====================  =============================================================================================
    name                  what lies before the head, one linear layer with C logits
    ====================  =============================================================================================
    ``mlp``               two hidden layers with ReLU, of 128 units up to 256 inputs and of 400 above (64-128-128-C for
                          the digits, 784-400-400-C for MNIST)
    ``mlp-100-100``       hidden layers of those widths with ReLU, as many as are named
    ``mlp-tanh-200``      the same with tanh
    ``cnn``               three 3 × 3 convolutions of 16, 32 and 64 channels with BatchNorm and ReLU, the last two with
                          stride 2; mean over positions
    ``resnet18-reduced``  a 3 × 3 convolution to 20 channels with BatchNorm and ReLU; 4 groups of 2 residual blocks of
                          20, 40, 80 and 160 channels (two 3 × 3 convolutions with BatchNorm; a 1 × 1 convolution with
                          BatchNorm where the shape changes), the last three groups with stride 2; mean over positions
    ``vit-small``         timm's vision transformer of 6 layers, 192 wide, 3 heads, on 8 × 8 patches of square images;
                          the state of its class token
    ====================  =============================================================================================

    Args:
        name: one of the table's, the widths of hidden layers at will.
        sequence: gives the input shape and the number of logits C.

    Raises:
        ValueError: an unknown name, convolutions for inputs that are no images, or a transformer for images whose sides
            8 does not divide.
        ImportError: ``vit-small`` without timm.

    **Reference**: resnet18-reduced: Lopez-Paz & Ranzato 2017, arXiv 1706.08840, section 5.2, as van de Ven 2025, arXiv
    2502.11756, uses it: his last block ends in the sum, without the ReLU that theirs has. **Differs**: no convolution
    has a bias; BatchNorm takes away the one that his first convolution has.

    Example:
        >>> from forgetting.tasks.registry import sequence
        >>> network("mlp", sequence("digits-transfer")).head
        Linear(in_features=128, out_features=10, bias=True)
        >>> [module.out_features for module in network("mlp-30-20", sequence("split-digits")).body[1::2]]
        [30, 20]
    """
    body, features = _body(name, sequence.input_shape)
    return nn.Sequential(OrderedDict(body=body, head=nn.Linear(features, sequence.classes)))


def _body(name: str, shape: tuple[int, ...]) -> tuple[nn.Module, int]:
    """What lies before the head, and how many features it gives."""
    sized = _SIZED.fullmatch(name)
    if sized:
        tanh, widths = sized.groups()
        return _mlp(shape, [int(width) for width in widths.split("-")[1:]], nn.Tanh if tanh else nn.ReLU)
    if name == "mlp":
        return _mlp(shape, [128 if math.prod(shape) <= 256 else 400] * 2)
    if name not in _CONVOLUTIONAL:
        raise ValueError(nearest("network", name, _KNOWN))
    if len(shape) != 3:
        raise ValueError(f'a "{name}" takes images [channels, height, width], not inputs of shape {shape}; try "mlp"')
    return _CONVOLUTIONAL[name](shape)


def _mlp(
    shape: tuple[int, ...], widths: Sequence[int], activation: Callable[[], nn.Module] = nn.ReLU
) -> tuple[nn.Module, int]:
    """Hidden layers of those widths."""
    layers: list[nn.Module] = [nn.Flatten()]
    features = math.prod(shape)
    for width in widths:
        layers += [nn.Linear(features, width), activation()]
        features = width
    return nn.Sequential(*layers), features


def _cnn(shape: tuple[int, ...]) -> tuple[nn.Module, int]:
    """Three convolutions."""
    layers: list[nn.Module] = []
    channels = shape[0]
    for width, stride in ((16, 1), (32, 2), (64, 2)):
        convolution = nn.Conv2d(channels, width, kernel_size=3, stride=stride, padding=1, bias=False)
        layers += [convolution, nn.BatchNorm2d(width), nn.ReLU()]
        channels = width
    return nn.Sequential(*layers, Average()), channels


def _reduced(shape: tuple[int, ...]) -> tuple[nn.Module, int]:
    """Eight residual blocks."""
    return nn.Sequential(*residual(shape[0], (20, 40, 80, 160)), Average()), 160


def _vit(shape: tuple[int, ...]) -> tuple[nn.Module, int]:
    """A vision transformer for small images."""
    channels, height, width = shape
    if height != width or height % 8:
        raise ValueError(f'"vit-small" cuts square images into 8 × 8 patches, and these are {height} × {width}: pad '
                         "them (the variation padding), or take another network")
    try:
        from timm.models.vision_transformer import VisionTransformer
    except ImportError as error:
        raise ImportError('"vit-small" is timm\'s: pip install "forgetting[vision]"') from error
    body = VisionTransformer(img_size=height, patch_size=height // 8, in_chans=channels, num_classes=0, embed_dim=192,
                             depth=6, num_heads=3, mlp_ratio=2.0)
    return body, 192


_CONVOLUTIONAL: dict[str, Callable[[tuple[int, ...]], tuple[nn.Module, int]]] = {
    "cnn": _cnn, "resnet18-reduced": _reduced, "vit-small": _vit,
}
