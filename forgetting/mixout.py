"""Weights that are replaced by their starting point at random while they learn."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from forgetting.parameters import Handle, Selection, canonical, named, unwrapped

__all__ = ["mixout"]


def mixout(model: nn.Module, probability: float, parameters: Selection = None, *, seed: int = 0) -> Handle:
    r"""Use, in train mode, the starting point in place of each weight with a probability: a stochastic L2-SP.

    .. math:: \theta' = u + \frac{M \odot (\theta - u)}{1 - p}, \qquad M_i \sim \text{Bernoulli}(1 - p)

    with u the weights at this call (the pretrained ones) and p the probability. Where M is 0 the weight is u, elsewhere
    it lies 1/(1−p) times as far from u as θ, so that :math:`\mathbb{E}\,\theta' = \theta`. A mask is drawn anew each
    time that a module reads its weight. In eval mode :math:`\theta' = \theta`.

    **Names.** While it holds, torch keeps a weight ``layer.weight`` as ``layer.parametrizations.weight.original``, with
    u beside it as a buffer, and ``state_dict`` has these names; that is torch's way and cannot be hidden. Regularizers
    that go by names do not find such a weight. After ``remove()`` all names are as before. The parameters are the same
    objects all the time, so an optimizer may be made before or after either call.

    **Going on.** A ``state_dict`` holds θ, u and how many masks were drawn: load it into a model on which ``mixout``
    was called likewise, and the masks go on where they stood.

    Args:
        model: any module.
        probability: p in [0, 1): how often a weight is replaced; 0 leaves the model alone.
        parameters: patterns (or a function of the name) of the weights to mix; default: every parameter that requires a
            gradient. A new head has no pretrained weights: leave it out.
        seed: of the masks, with the parameter's name and the number of masks before: no other generator is used, and
            the order of layers does not matter. The draws of a CPU and a GPU differ.

    Returns:
        A :class:`~forgetting.parameters.Handle`; ``remove()``, or the end of a ``with`` block, makes the learned θ
        ordinary weights again.

    Raises:
        ValueError: for a probability out of its range; for weights of recurrent layers, which read theirs by another
            way, and for weights that are made by a parametrization already.

    **Cost**: one copy of the weights; at each use of a weight in train mode one random number and three operations a
    weight, and one more copy of it for the backward pass.

    **Reference**: Lee, Cho and Kang 2020 (arXiv 1909.11299).

    **Differs**: each weight has a mask of its own, what the paper analyses as mixconnect; its experiments replace all
    weights that leave an input neuron together, in the matrices of linear layers (``parameters="*.weight"`` comes
    near). The gradient carries the factor M/(1 − p) of the formula. Parts that run again in the backward pass
    (activation checkpoints) would draw other masks there.

    Example:
        >>> model = nn.Linear(1000, 1, bias=False).train()
        >>> handle, pretrained = mixout(model, 0.25), model.weight.detach().clone()
        >>> model.parametrizations.weight.original.data += 1.0
        >>> moved = (model.weight - pretrained).detach()
        >>> moved.round(decimals=3).unique(), 0.7 < (moved > 0).float().mean() < 0.8
        (tensor([0.0000, 1.3330]), tensor(True))
        >>> handle.remove()
        >>> list(model.state_dict())
        ['weight']
    """
    if not 0 <= probability < 1:
        raise ValueError(f"probability={probability} must lie in [0, 1): it is the share of weights that are replaced, "
                         "and the others are scaled by 1/(1 − probability)")
    chosen = named(model, parameters, trainable=parameters is None)
    placed = _places(model, {id(weight): name for name, weight in chosen.items()})
    if probability == 0:
        return Handle(lambda: None)
    order = {module: list(module._parameters) for module, _, _ in placed}
    for module, key, name in placed:
        mixing = _Mixing(getattr(module, key), probability, f"{seed} {name}").eval()
        parametrize.register_parametrization(module, key, mixing)
        mixing.train(module.training)
    return Handle(lambda: _unmix(placed, order))


class _Mixing(nn.Module):
    """One weight's way from θ to θ′.

    Args:
        weight: where it starts.
        probability: of being replaced.
        stream: names the sequence of masks.
    """

    anchor: Tensor

    def __init__(self, weight: Tensor, probability: float, stream: str) -> None:
        super().__init__()
        self.register_buffer("anchor", weight.detach().clone())
        self.probability = probability
        self.stream = stream
        self.drawn = 0

    def forward(self, weight: Tensor) -> Tensor:
        if not self.training:
            return weight
        if getattr(self, "_is_replica", False):
            raise RuntimeError("mixout under DataParallel would draw the same mask in every step, for its replicas are "
                               "thrown away: use DistributedDataParallel")
        kept = self._mask(weight).to(weight.dtype).div_(1 - self.probability)
        return self.anchor + kept * (weight - self.anchor)

    def _mask(self, weight: Tensor) -> Tensor:
        """Whether each weight is kept."""
        digest = hashlib.blake2b(f"{self.stream} {self.drawn}".encode(), digest_size=8).digest()
        generator = torch.Generator(weight.device).manual_seed(int.from_bytes(digest, "big") >> 1)
        self.drawn += 1
        return torch.rand(weight.shape, generator=generator, device=weight.device) >= self.probability

    def get_extra_state(self) -> Tensor:
        return torch.tensor(self.drawn)

    def set_extra_state(self, state: Any) -> None:
        self.drawn = int(state)


def _places(model: nn.Module, names: dict[int, str]) -> list[tuple[nn.Module, str, str]]:
    """Module, attribute and parameter name of every place where one of these parameters hangs."""
    found = []
    for path, module in unwrapped(model).named_modules():
        for key, weight in module._parameters.items():
            if weight is None or id(weight) not in names:
                continue
            if isinstance(module, nn.RNNBase):
                raise ValueError(f"{canonical(path) or type(module).__name__} is a recurrent layer, which reads its "
                                 "weights by another way, so that mixing them would do nothing: leave them out with "
                                 "parameters=")
            if isinstance(module, parametrize.ParametrizationList):
                raise ValueError(f"{names[id(weight)]} is made by a parametrization already: leave it out with "
                                 "parameters=")
            found.append((module, key, names[id(weight)]))
    return found


def _unmix(placed: list[tuple[nn.Module, str, str]], order: dict[nn.Module, list[str]]) -> None:
    """Make the weights ordinary again, in their order: optimizers and files go by it."""
    for module, key, _ in placed:
        parametrize.remove_parametrizations(module, key, leave_parametrized=False)
    for module, keys in order.items():
        for key in keys:
            if key in module._parameters:
                module._parameters[key] = module._parameters.pop(key)
