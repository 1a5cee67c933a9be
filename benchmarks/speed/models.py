"""The models that speed is measured on, built offline with random weights, and what is promised of each.

A row knows how to build its model and its batches, and what the numbers must be. ``CPU`` has the eight rows of the
promise; :mod:`benchmarks.speed.accelerated` has those that need a GPU. Every model maps one tensor to one tensor of
logits, so that libraries that know nothing of Hugging Face's outputs are measured on the very same model.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Row:
    """A model, the shape of its batches, and what is promised: time and peak memory ÷ forward+backward.

    ``batches`` is the length of the data set that an estimate is timed on, ``rounds`` how often; ``examples`` how many
    the float64 oracle sees. ``sizes`` is the shape of one input (whole numbers below ``vocabulary``, if that is given).
    """

    name: str
    title: str
    build: Callable[[], nn.Module]
    sizes: tuple[int, ...]
    batch: int
    classes: int
    vocabulary: int | None = None
    causal: bool = False
    must: float | None = None
    aim: float | None = None
    memory: float | None = None
    batches: int = 8
    rounds: int = 9
    examples: int = 4
    needs: tuple[str, ...] = ()
    dtype: torch.dtype = torch.float32

    def model(self, device: str = "cpu") -> nn.Module:
        """The model in eval mode, the same every time."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return self.build().eval().to(device, self.dtype)

    def data(self, batches: int | None = None, device: str = "cpu", *, batch: int | None = None) -> list[Batch]:
        """Random batches of one shape."""
        generator = torch.Generator().manual_seed(1)
        return [tuple(value.to(device) for value in self._draw(batch or self.batch, generator))
                for _ in range(batches or self.batches)]

    def _draw(self, batch: int, generator: torch.Generator) -> Batch:
        if self.vocabulary is None:
            inputs = torch.randn(batch, *self.sizes, generator=generator).to(self.dtype)
        else:
            inputs = torch.randint(self.vocabulary, (batch, *self.sizes), generator=generator)
        if self.causal:
            return inputs, inputs
        return inputs, torch.randint(self.classes, (batch,), generator=generator)

    def loss(self, outputs: Tensor, targets: Tensor, reduction: str = "sum") -> Tensor:
        """−log p; "none" gives one number an example, summed over its positions."""
        if not self.causal:
            return functional.cross_entropy(outputs, targets, reduction=reduction)
        positions = functional.cross_entropy(outputs[:, :-1].flatten(0, 1), targets[:, 1:].flatten(),
                                             reduction="none" if reduction == "none" else reduction)
        return positions.view(len(outputs), -1).sum(1) if reduction == "none" else positions

    def missing(self) -> list[str]:
        """Packages that the row needs and that are not installed."""
        return [package for package in self.needs if importlib.util.find_spec(package) is None]


class Logits(nn.Module):
    """A Hugging Face model as a function of its token ids."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> Tensor:
        return self.model(input_ids=tokens).logits


def perceptron() -> nn.Module:
    """784-400-400-10."""
    return nn.Sequential(nn.Linear(784, 400), nn.ReLU(), nn.Linear(400, 400), nn.ReLU(), nn.Linear(400, 10))


def convolutions() -> nn.Module:
    """Two 3×3 convolutions of 32 and 64 channels, a pooling, 128 hidden units: the network of many tutorials."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(64 * 12 * 12, 128), nn.ReLU(), nn.Linear(128, 10))


def residual(name: str, small: bool = False, classes: int = 1000) -> nn.Module:
    """torchvision's ResNet; ``small``: the CIFAR form with a 3×3 stem of stride 1 and no first pooling."""
    import torchvision

    model = getattr(torchvision.models, name)(num_classes=classes)
    if small:
        model.conv1, model.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    return model


def timm_model(name: str, **options: object) -> nn.Module:
    """A model of timm, without pretrained weights."""
    import timm

    return timm.create_model(name, pretrained=False, **options)


def bert(layers: int = 6, width: int = 384, heads: int = 6) -> nn.Module:
    """BERT with a head for two classes."""
    from transformers import BertConfig, BertForSequenceClassification

    return Logits(BertForSequenceClassification(BertConfig(
        hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads, intermediate_size=4 * width,
        num_labels=2)))


def gpt(layers: int = 6, width: int = 384, heads: int = 6, positions: int = 128) -> nn.Module:
    """GPT-2 with its tied head."""
    from transformers import GPT2Config, GPT2LMHeadModel

    return Logits(GPT2LMHeadModel(GPT2Config(
        n_embd=width, n_layer=layers, n_head=heads, n_positions=positions, use_cache=False)))


CPU = {row.name: row for row in (
    Row("mlp", "MLP 784-400-400-10, 256", perceptron, (784,), 256, 10, must=1.25, aim=1.10, batches=128, rounds=25,
        examples=16),
    Row("cnn", "CNN, 64", convolutions, (1, 28, 28), 64, 10, must=1.25, aim=1.10, memory=1.4, batches=32,
        rounds=9, examples=16),
    Row("resnet18-32", "ResNet-18 at 32 px, 64", lambda: residual("resnet18", small=True, classes=10),
        (3, 32, 32), 64, 10, must=1.45, aim=1.20, memory=1.2, batches=16, rounds=3,
        needs=("torchvision",)),
    Row("resnet18-112", "ResNet-18 at 112 px, 16", lambda: residual("resnet18"), (3, 112, 112), 16, 1000,
        must=1.40, aim=1.20, memory=1.3, batches=32, rounds=5, needs=("torchvision",)),
    Row("efficientnet-lite0", "EfficientNet-Lite0 at 112 px, 16", lambda: timm_model("efficientnet_lite0"),
        (3, 112, 112), 16, 1000, must=1.30, aim=1.12, memory=1.2, batches=32, rounds=5, needs=("timm",)),
    Row("vit-tiny", "ViT-Tiny at 224 px, 16", lambda: timm_model("vit_tiny_patch16_224"), (3, 224, 224), 16, 1000,
        must=1.15, aim=1.08, memory=1.2, batches=16, rounds=3, needs=("timm",)),
    Row("bert", "BERT, 6 layers × 384, 128 tokens, 16", bert, (128,), 16, 2, vocabulary=30522,
        must=1.25, aim=1.12, memory=1.7, batches=16, rounds=3, needs=("transformers",)),
    Row("gpt2", "GPT-2, 6 layers × 384, tied head, 128 tokens, 16", gpt, (128,), 16, 50257, vocabulary=50257,
        causal=True, must=1.20, aim=1.10, memory=1.2, batches=8, rounds=3, examples=2, needs=("transformers",)),
)}
