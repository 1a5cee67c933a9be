"""Pretrained classifiers by name, with logits for new tasks beside their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from forgetting.tasks.loading import last_linear, load, sized
from forgetting.tasks.task import TaskSequence
from forgetting.tasks.unknown import nearest

HUB, NONE = "hub", "none"
TORCHVISION = "torchvision:"
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class Heads(nn.Module):
    r"""A classifier's last layer and one for new tasks beside it: logits :math:`[W_s h + b_s,\; W_t h + b_t]`.

    Args:
        source: the layer that the classifier was pretrained with; it is taken as it is.
        columns: logits for the new tasks, at least 1; their weights are drawn as torch draws a linear layer's.

    **Cost**: one more product with the features.

    Example:
        >>> Heads(nn.Linear(4, 1000), 20)(torch.zeros(2, 4)).shape
        torch.Size([2, 1020])
    """

    def __init__(self, source: nn.Linear, columns: int) -> None:
        super().__init__()
        self.source = source
        self.targets = nn.Linear(source.in_features, columns, device=source.weight.device, dtype=source.weight.dtype)

    def forward(self, features: Tensor) -> Tensor:
        """All logits, the source's first."""
        return torch.cat([self.source(features), self.targets(features)], dim=-1)


class Prepared(nn.Module):
    r"""A backbone that takes pixels in [0, 1] of any size: resized, then :math:`(x_c - m_c)/s_c`, then the backbone.

    Args:
        backbone: an image classifier.
        pixels: height and width that it is shown; bilinear where the images have another size.
        means: :math:`m`, one a channel, for pixels in [0, 1].
        deviations: :math:`s`, one a channel.

    **Cost**: one pass over a batch, two where it is resized. Weights and batches lie channels last, which is the faster
    way on a CPU.

    Example:
        >>> Prepared(nn.Flatten(), 2, [0.5], [0.5])(torch.ones(1, 1, 4, 4))
        tensor([[1., 1., 1., 1.]])
    """

    means: Tensor
    deviations: Tensor

    def __init__(self, backbone: nn.Module, pixels: int, means: Sequence[float], deviations: Sequence[float]) -> None:
        super().__init__()
        self.pixels = pixels
        for name, values in (("means", means), ("deviations", deviations)):
            self.register_buffer(name, torch.tensor(values).view(1, -1, 1, 1), persistent=False)
        self.backbone = backbone.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        """The backbone's logits."""
        if images.shape[-2:] != (self.pixels, self.pixels):
            images = functional.interpolate(images, (self.pixels, self.pixels), mode="bilinear", align_corners=False)
        images = (images - self.means) / self.deviations
        return self.backbone(images.contiguous(memory_format=torch.channels_last))


@dataclass(frozen=True)
class Classifier:
    """A pretrained image classifier as a recipe's ``network=``: its own logits first, then those of new tasks.

    Args:
        name: as timm calls it, or torchvision after ``torchvision:``.
        weights: ``"hub"`` (what the package downloads), the path of a file of tensors, or ``"none"``: random weights,
            the same in every run. A file's tensors are taken by name where the names are the model's own, by position
            where their shapes are; a file with another number of classes, or positions, than the model's usual one
            makes a model of that number.
        pixels: height and width that the classifier is shown; timm's transformers get as many positions as that takes.

    Raises:
        ValueError: a name that the package does not know, with the nearest; a file that does not fit; from a call,
            a sequence with fewer logits than the classifier, or a classifier whose last layer is not linear.
        ImportError: where the package is missing.

    **Cost**: that of making the model and reading its weights, at every call.

    Example:
        >>> Classifier("resnet18", pixels=64).__qualname__
        'resnet18'
    """

    name: str
    weights: str = HUB
    pixels: int = 224

    def __post_init__(self) -> None:
        object.__setattr__(self, "__qualname__", self.name)  # what a recipe calls it

    def original(self) -> nn.Module:
        """The classifier alone, in eval mode, as it was pretrained."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            make = _torchvision if self.name.startswith(TORCHVISION) else _timm
            backbone, (means, deviations) = make(self.name.removeprefix(TORCHVISION), self.weights == HUB)
        if self.weights in (HUB, NONE):
            sized(backbone, self.pixels)
        else:
            load(backbone, Path(self.weights), self.pixels)
        return Prepared(backbone, self.pixels, means, deviations).eval()

    def classes(self) -> int:
        """How many logits the classifier has of its own."""
        return last_linear(self.original())[1].out_features

    def __call__(self, sequence: TaskSequence) -> nn.Module:
        """The classifier with as many logits as the sequence has columns; the new ones' weights are drawn."""
        model = self.original()
        path, last = last_linear(model)
        more = sequence.classes - last.out_features
        if more < 0:
            raise ValueError(f"{sequence.name!r} has {sequence.classes} columns, and {self.name} brings "
                             f"{last.out_features} of its own: make the sequence for this classifier")
        if more:
            parent, _, name = path.rpartition(".")
            setattr(model.get_submodule(parent), name, Heads(last, more))
        return model


def _timm(name: str, pretrained: bool) -> tuple[nn.Module, tuple[Sequence[float], Sequence[float]]]:
    """A model of timm and its pixels' constants."""
    try:
        import timm
    except ImportError as error:
        raise ImportError('classifiers by name come with timm: pip install "forgetting[vision]"') from error
    if not timm.is_model(name.partition(".")[0]):
        raise ValueError(nearest("timm model", name, timm.list_models()).partition(" Known:")[0])
    model = timm.create_model(name, pretrained=pretrained)
    about = model.pretrained_cfg
    return model, (about["mean"], about["std"])


def _torchvision(name: str, pretrained: bool) -> tuple[nn.Module, tuple[Sequence[float], Sequence[float]]]:
    """A model of torchvision and its pixels' constants."""
    try:
        from torchvision import models
    except ImportError as error:
        raise ImportError('its classifiers come with torchvision: pip install "forgetting[vision]"') from error
    known = models.list_models(module=models)
    if name not in known:
        raise ValueError(nearest("torchvision classifier", name, known).partition(" Known:")[0])
    default = models.get_model_weights(name).DEFAULT
    about: Any = default.transforms()
    constants = (getattr(about, "mean", IMAGENET[0]), getattr(about, "std", IMAGENET[1]))
    return models.get_model(name, weights=default if pretrained else None), constants
