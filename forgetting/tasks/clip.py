"""CLIP by name: what it knows are the classes whose names it is given, without ever having been trained on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from forgetting.tasks.hub import transformers
from forgetting.tasks.pretrained import Prepared
from forgetting.tasks.task import TaskSequence

CLIP = "clip:"
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_BATCH = 256  # prompts


class ZeroShot(nn.Module):
    r"""Cosines to the texts of classes as logits, then those of new tasks: :math:`[s\,T\hat e,\; W e + b]`.

    :math:`e` is the projected embedding of an image, :math:`\hat e = e/\lVert e\rVert`, the rows of :math:`T` are the
    normalised embeddings of the classes' prompts, made once; :math:`s` is CLIP's own scale, which stays.

    Args:
        vision: the image encoder of a CLIP.
        projection: from its pooled state to the space that it shares with texts.
        texts: :math:`T` [classes, features].
        scale: :math:`s`.

    **Cost**: that of the image encoder.
    """

    texts: Tensor

    def __init__(self, vision: nn.Module, projection: nn.Linear, texts: Tensor, scale: float) -> None:
        super().__init__()
        self.vision, self.projection, self.scale = vision, projection, scale
        self.register_buffer("texts", texts)
        self.targets: nn.Linear | None = None

    def forward(self, images: Tensor) -> Tensor:
        """All logits of images of the size and with the constants of the encoder."""
        found = self.projection(self.vision(pixel_values=images).pooler_output)
        known = self.scale * functional.normalize(found, dim=-1) @ self.texts.T
        return known if self.targets is None else torch.cat([known, self.targets(found)], dim=-1)


@dataclass(frozen=True)
class Clip:
    """A CLIP as a recipe's ``network=``: zero-shot logits of classes by their names, then logits to learn.

    Only the image encoder learns: the texts' embeddings are made once.

    Args:
        name: a model's name on the hub, or its folder.
        labels: the classes' names, at least two; logit k is the k-th's.
        template: the prompt, with ``{}`` where a class's name goes.

    Raises:
        ValueError: for fewer names, or a template without a place for them; from a call, for a sequence with fewer
            columns than names.
        ImportError: where transformers is missing.

    **Cost**: that of reading the weights and embedding the prompts, at every call.

    **Reference**: Radford et al. 2021, arXiv 2103.00020, section 3.1.2. **Differs**: one prompt a class; images that
    are not of the encoder's size are resized bilinearly.

    Example:
        >>> Clip("openai/clip-vit-base-patch32").__qualname__
        'clip-vit-base-patch32'
    """

    name: str
    labels: tuple[str, ...] = CIFAR10
    template: str = "a photo of a {}."

    def __post_init__(self) -> None:
        if len(self.labels) < 2:
            raise ValueError(f"{len(self.labels)} names of classes; at least 2 are needed")
        if "{}" not in self.template:
            raise ValueError(f"template={self.template!r} has no {{}}, where the name of a class goes")
        object.__setattr__(self, "__qualname__", self.name.rpartition("/")[2])  # what a recipe calls it

    @property
    def pixels(self) -> int:
        """Height and width that the image encoder is shown."""
        return int(transformers("CLIP models").CLIPConfig.from_pretrained(self.name).vision_config.image_size)

    def original(self) -> nn.Module:
        """The image encoder as it was pretrained, in eval mode, with the zero-shot logits alone."""
        whole = transformers("CLIP models").CLIPModel.from_pretrained(self.name).eval()
        images = transformers("CLIP models").CLIPImageProcessor.from_pretrained(self.name)
        scale = float(whole.logit_scale.detach().exp())
        backbone = ZeroShot(whole.vision_model, whole.visual_projection, self._texts(whole), scale)
        return Prepared(backbone, self.pixels, images.image_mean, images.image_std).eval()

    def classes(self) -> int:
        """How many logits there are without new tasks."""
        return len(self.labels)

    def __call__(self, sequence: TaskSequence) -> nn.Module:
        """The model with as many logits as the sequence has columns; the new ones' weights are drawn."""
        more = sequence.classes - len(self.labels)
        if more < 0:
            raise ValueError(f"{sequence.name!r} has {sequence.classes} columns, fewer than the {len(self.labels)} "
                             "classes that were named: make the sequence for this network")
        model = self.original()
        if more:
            backbone = model.backbone
            assert isinstance(backbone, ZeroShot)
            backbone.targets = nn.Linear(backbone.texts.shape[1], more)
        return model

    def _texts(self, whole: Any) -> Tensor:
        """The normalised embeddings of the prompts."""
        tokenizer = transformers("CLIP models").CLIPTokenizer.from_pretrained(self.name)
        prompts = [self.template.format(label) for label in self.labels]
        found = []
        with torch.no_grad():
            for first in range(0, len(prompts), _BATCH):
                batch = tokenizer(prompts[first : first + _BATCH], padding=True, truncation=True,
                                  max_length=whole.config.text_config.max_position_embeddings, return_tensors="pt")
                pooled = whole.text_model(input_ids=batch["input_ids"],
                                          attention_mask=batch["attention_mask"]).pooler_output
                found.append(functional.normalize(whole.text_projection(pooled), dim=-1))
        return torch.cat(found)
