"""What is done to a batch of inputs as it is cut: many tasks then share one copy of the images in memory."""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional


class View(ABC):
    """A fixed map of a batch of inputs to a batch of the same shape, one example at a time and without randomness."""

    @abstractmethod
    def __call__(self, inputs: Tensor) -> Tensor:
        """The batch as the task shows it; the batch that came is left as it is."""

    @abstractmethod
    def describe(self) -> str:
        """A text that differs where the map differs; fingerprints are made of it."""

    @abstractmethod
    def to(self, device: torch.device | str) -> View:
        """The same map for inputs on that device."""


class Permutation(View):
    r"""One fixed order of the pixels, the same for every image and channel: :math:`x'_i = x_{\pi(i)}`.

    Args:
        order: :math:`\pi`, int64 [height · width] (for inputs that are not images: [features]); each number once.

    Raises:
        ValueError: where ``order`` is no permutation, or does not fit the inputs.

    **Cost**: 8 bytes a pixel, and one gather a batch.

    **Reference**: Goodfellow et al. 2013, arXiv 1312.6211, section 4.1 ("input reformatting"). **Differs**: nothing.

    Example:
        >>> Permutation(torch.tensor([2, 0, 1]))(torch.tensor([[10.0, 20.0, 30.0]]))
        tensor([[30., 10., 20.]])
    """

    def __init__(self, order: Tensor) -> None:
        if order.dim() != 1 or order.dtype != torch.int64:
            raise ValueError(f"an order is a row of int64, not {order.dtype} of shape {tuple(order.shape)}")
        if not torch.equal(order.sort().values, torch.arange(len(order), device=order.device)):
            raise ValueError(f"the order of {len(order)} pixels is no permutation: each of 0…{len(order) - 1} once")
        self.order = order

    def __call__(self, inputs: Tensor) -> Tensor:
        start = 2 if inputs.dim() > 3 else 1
        flat = inputs.flatten(start)
        if flat.shape[-1] != len(self.order):
            raise ValueError(
                f"the permutation is one of {len(self.order)} pixels, the inputs have {flat.shape[-1]} "
                f"(shape {tuple(inputs.shape[1:])}); build it for these inputs"
            )
        return flat.index_select(start, self.order).view(inputs.shape)

    def describe(self) -> str:
        return "permutation " + hashlib.sha256(self.order.cpu().numpy().tobytes()).hexdigest()

    def to(self, device: torch.device | str) -> Permutation:
        return Permutation(self.order.to(device))


class Standardized(View):
    r"""Each channel less its mean, over its standard deviation: :math:`x'_c = (x_c - m_c) / s_c`.

    Args:
        means: :math:`m`, one a channel, in the units of the inputs (pixels in [0, 1]).
        deviations: :math:`s`, one a channel, above 0.
        device: where the inputs lie.

    Raises:
        ValueError: where there are not as many of both, one is not finite, a deviation is not above 0, or the inputs
            have another number of channels.

    **Cost**: two passes over a batch; no memory.

    Example:
        >>> Standardized([0.5], [0.25])(torch.tensor([[[[0.0, 0.5], [0.75, 1.0]]]])).flatten()
        tensor([-2.,  0.,  1.,  2.])
    """

    def __init__(
        self, means: Sequence[float], deviations: Sequence[float], device: torch.device | str = "cpu"
    ) -> None:
        self.means, self.deviations = tuple(map(float, means)), tuple(map(float, deviations))
        finite = all(map(math.isfinite, (*self.means, *self.deviations)))
        if not finite or len(self.means) != len(self.deviations) or min(self.deviations, default=0.0) <= 0:
            raise ValueError(
                f"one finite mean and one finite deviation above 0 a channel, not means={self.means} and "
                f"deviations={self.deviations}"
            )
        self._constants = torch.tensor([self.means, self.deviations], device=device)

    def __call__(self, inputs: Tensor) -> Tensor:
        if inputs.dim() < 2 or inputs.shape[1] != len(self.means):
            raise ValueError(
                f"constants of {len(self.means)} channels do not suit inputs of shape {tuple(inputs.shape[1:])}, whose "
                "first dimension is the channel"
            )
        means, deviations = self._constants.view(2, -1, *[1] * (inputs.dim() - 2))
        return inputs.sub(means).div_(deviations)

    def describe(self) -> str:
        return f"standardized {self.means} {self.deviations}"

    def to(self, device: torch.device | str) -> Standardized:
        return Standardized(self.means, self.deviations, device)


class Rotation(View):
    """Images turned counter-clockwise about their centre, zero outside; quarter turns are exact.

    Args:
        degrees: the angle; multiples of 90 move pixels and change no value (other shapes than squares: of 180).
        interpolation: ``"bilinear"`` or ``"nearest"``: what a pixel takes from those that it falls between.

    Raises:
        ValueError: where the angle is not finite, the interpolation is another, or the inputs are not
            [n, channels, height, width].

    **Cost**: one ``grid_sample`` a batch; no memory.

    **Reference**: the rotation of Lopez-Paz & Ranzato 2017, arXiv 1706.08840, section 5.1. **Differs**: their code
    takes the nearest pixel, which is ``interpolation="nearest"`` here.

    Example:
        >>> Rotation(90)(torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])).flatten()
        tensor([2., 4., 1., 3.])
    """

    def __init__(self, degrees: float, interpolation: str = "bilinear") -> None:
        if not math.isfinite(degrees):
            raise ValueError(f"a rotation takes a finite angle in degrees, not {degrees}")
        if interpolation not in ("bilinear", "nearest"):
            raise ValueError(f"interpolation={interpolation!r}; expected 'bilinear' or 'nearest'")
        self.degrees, self.interpolation = float(degrees), interpolation

    def __call__(self, inputs: Tensor) -> Tensor:
        if inputs.dim() != 4:
            raise ValueError(
                f"a rotation takes images [n, channels, height, width], not inputs of shape {tuple(inputs.shape)}"
            )
        height, width = inputs.shape[-2:]
        turns = self.degrees / 90
        if turns == int(turns) and (height == width or turns % 2 == 0):
            return torch.rot90(inputs, int(turns), dims=(-2, -1)).contiguous()
        cosine, sine = math.cos(math.radians(self.degrees)), math.sin(math.radians(self.degrees))
        # grid_sample counts each side from -1 to 1, whatever its length: a true rotation undoes that scaling
        theta = [[cosine, -sine * height / width, 0.0], [sine * width / height, cosine, 0.0]]
        matrix = torch.tensor(theta, dtype=inputs.dtype, device=inputs.device).expand(len(inputs), 2, 3)
        grid = functional.affine_grid(matrix, list(inputs.shape), align_corners=False)
        return functional.grid_sample(inputs, grid, mode=self.interpolation, padding_mode="zeros", align_corners=False)

    def describe(self) -> str:
        return f"rotation {self.degrees!r}" + (", nearest" if self.interpolation == "nearest" else "")

    def to(self, device: torch.device | str) -> Rotation:
        return self
