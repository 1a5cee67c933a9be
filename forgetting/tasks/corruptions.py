"""Images made worse, stored as bytes like those they come from: noise, blur, little contrast, coarse pixels."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from forgetting.tasks.examples import Examples
from forgetting.tasks.sequences import keyed
from forgetting.tasks.unknown import nearest

_CROP = 224  # pixels of the images for which the blur is stated
_BATCH = 1000


def corrupted(examples: Examples, kind: str, severity: int = 3, *, seed: int = 0) -> Examples:
    r"""The same examples with every image made worse; pixels :math:`x \in [0, 1]`, rounded to bytes afterwards.

    ============  ==========================================================================  ===================
    kind          what happens                                                                severity 1 to 5
    ============  ==========================================================================  ===================
    ``noise``     :math:`x + \sigma z`, z standard normal                                     .08 .12 .18 .26 .38
    ``blur``      a Gaussian of standard deviation :math:`\sigma h/224` pixels, h the height  1 2 3 4 6
    ``contrast``  :math:`m_c + a(x - m_c)`, :math:`m_c` the mean of a channel of the image     .4 .3 .2 .1 .05
    ``pixels``    averaged down to a share s of each side's pixels, and up again              .6 .5 .4 .3 .25
    ============  ==========================================================================  ===================

    Args:
        examples: images [channels, height, width], bytes or in [0, 1].
        kind: of the table.
        severity: 1 to 5.
        seed: of the noise; an image's depends on its place among the examples and on nothing else.

    Raises:
        ValueError: an unknown kind, with the nearest; another severity; inputs that are no images.

    **Cost**: one pass; a second copy of the images, a byte a pixel.

    **Reference**: Hendrycks & Dietterich 2019, arXiv 1903.12261, section 3.1; the values are their code's for ImageNet.
    **Differs**: four of their kinds; the blur is theirs at 224 pixels and shrinks with the image, up to three
    deviations each way, its integral over each pixel, so that small images at small severities hardly change (at 32
    pixels severity 1 changes none); averaged by area, where theirs takes Pillow's box; stored as they
    are, not as JPEG.

    Example:
        >>> worse = corrupted(Examples(torch.rand(2, 3, 8, 8), torch.tensor([0, 1])), "contrast", 5)
        >>> bool(worse.inputs.std() < 0.05)
        True
    """
    if kind not in _KINDS:
        raise ValueError(nearest("corruption", kind, KINDS))
    change, values = _KINDS[kind]
    if type(severity) is not int or not 1 <= severity <= len(values):
        raise ValueError(f"severity={severity!r}; expected a whole number from 1 to {len(values)}")
    if len(examples.input_shape) != 3:
        raise ValueError(f"corruptions take images [channels, height, width], not inputs of {examples.input_shape}")
    images = torch.empty(len(examples), *examples.input_shape, dtype=torch.uint8, device=examples.device)
    for first in range(0, len(examples), _BATCH):
        rows = torch.arange(first, min(first + _BATCH, len(examples)), device=examples.device)
        worse = change(examples.subset(rows).inputs, values[severity - 1], [(seed, row) for row in rows.tolist()])
        images[rows] = (255 * worse).round().clamp(0, 255).to(torch.uint8)
    return Examples(images, examples.targets)


def _noise(images: Tensor, deviation: float, places: list[tuple[int, int]]) -> Tensor:
    drawn = [torch.from_numpy(keyed(seed, f"noise of image {row}").standard_normal(tuple(images.shape[1:])))
             for seed, row in places]
    return images + deviation * torch.stack(drawn).to(images)


def _blur(images: Tensor, deviation: float, _: list[tuple[int, int]]) -> Tensor:
    """One side after the other, the border repeated."""
    channels, height = images.shape[1:3]
    sigma = deviation * height / _CROP
    reach = max(1, round(3 * sigma))
    edges = torch.arange(-reach, reach + 2, dtype=torch.float64) - 0.5
    weights = torch.special.ndtr(edges / sigma).diff()
    weights = (weights / weights.sum()).to(images).expand(channels, 1, -1)
    images = functional.pad(images, (reach,) * 4, mode="replicate")
    rows = functional.conv2d(images, weights.unsqueeze(-1), groups=channels)
    return functional.conv2d(rows, weights.unsqueeze(-2), groups=channels)


def _contrast(images: Tensor, share: float, _: list[tuple[int, int]]) -> Tensor:
    means = images.mean(dim=(-2, -1), keepdim=True)
    return means + share * (images - means)


def _pixels(images: Tensor, share: float, _: list[tuple[int, int]]) -> Tensor:
    height, width = images.shape[-2:]
    few = (max(1, int(height * share)), max(1, int(width * share)))
    return functional.interpolate(functional.interpolate(images, few, mode="area"), (height, width), mode="area")


_KINDS: dict[str, tuple[Callable[[Tensor, float, list[tuple[int, int]]], Tensor], tuple[float, ...]]] = {
    "noise": (_noise, (0.08, 0.12, 0.18, 0.26, 0.38)),
    "blur": (_blur, (1.0, 2.0, 3.0, 4.0, 6.0)),
    "contrast": (_contrast, (0.4, 0.3, 0.2, 0.1, 0.05)),
    "pixels": (_pixels, (0.6, 0.5, 0.4, 0.3, 0.25)),
}
KINDS = tuple(_KINDS)
