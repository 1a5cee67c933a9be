"""LoRA: low-rank adapters learn in place of the weights, and become part of them at the end."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import nn

from forgetting.adapters.pairs import adapted
from forgetting.adapters.targets import chosen, matching
from forgetting.norms import still
from forgetting.parameters import Handle, Selection, canonical, unwrapped

__all__ = ["lora"]

_NAME = "default"


def lora(
    model: nn.Module,
    *,
    rank: int = 8,
    scale: float = 1.0,
    modules: Selection = None,
    head: Selection = None,
    inputs: Any = None,
    seed: int = 0,
) -> Handle:
    r"""Add low-rank adapters to a model's layers, which then learn in place of all its weights.

    .. math:: W' = W + s\,B A, \qquad B \in \mathbb R^{m\times r},\; A \in \mathbb R^{r\times n}

    for a layer's weight :math:`W \in \mathbb R^{m\times n}` (a convolution's with its window unrolled into n); r is
    ``rank``, s is ``scale``. B starts at 0, so the model starts as it was. Call it before the optimizer is made and
    before ``DistributedDataParallel``; the adapters' parameters are those with ``requires_grad``. Removing the handle
    adds s·BA to W and takes the adapters out: the modules, the names and the parameters' identities are then what they
    were before.

    **Which layers.** Linear layers, transformers' ``Conv1D`` and 2d convolutions. By default all of them but the last,
    which is the model's head. Left out is where the adapter would act in one place and the merged weight in another:
    weights that are tied or shared, layers inside :class:`torch.nn.MultiheadAttention` and
    :class:`torch.nn.TransformerEncoderLayer`, which read a weight without calling its layer, subclasses with a forward
    pass of their own, parametrized weights; and convolutions with groups, dilation or padding other than zeros. To ask
    for such a layer by name is an error that says why.

    Everything else is frozen as :func:`forgetting.freeze` does it, norm statistics included: no gradient, ``.grad``
    dropped, statistics still.

    Args:
        model: any module.
        rank: r ≥ 1, the same for every layer.
        scale: s > 0, peft's ``lora_alpha / r``.
        modules: patterns over the paths of layers, or a function of the path; a pattern covers all below a path
            (``"layer4"``), as far as it can have adapters; ``"*"`` covers the last layer too. ``None`` as above.
        head: patterns over the names of parameters that learn whole beside the adapters, such as a new head, likewise.
        inputs: what one forward pass takes, to find the layer that is called last: a tensor, a tuple of positional or a
            mapping of keyword arguments. ``None`` takes the layer that was registered last.
        seed: of A, which is uniform in ±1/√n. The global generators are not used.

    Returns:
        A :class:`~forgetting.parameters.Handle`; ``remove()``, or the end of a ``with`` block, merges the adapters and
        gives ``requires_grad`` back as it was.

    Raises:
        ModuleNotFoundError: without peft; the extra ``peft`` brings it.
        ValueError: for a rank or a scale out of range, a pattern that matches nothing, a layer that can have no
            adapter, a model that has adapters already. The model is then as it was.

    **Cost**: r·(m + n) parameters a layer, in float32 where the weights have fewer bits, and two small products a layer
    and pass; gradients and the optimizer's state for these alone. Merging is one product a layer.

    **Reference**: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021 (arXiv 2106.09685), section
    4.1; Biderman et al., "LoRA Learns Less and Forgets Less", 2024 (arXiv 2405.09673).
    **Differs**: all layers but the head, not the attention's projections only; no dropout on the adapters' inputs; norm
    statistics do not move.

    Example:
        >>> model = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))
        >>> with lora(model, rank=2, head="2"):  # doctest: +SKIP
        ...     [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        ['0.lora_A.default.weight', '0.lora_B.default.weight', '2.weight', '2.bias']
    """
    if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
        raise ValueError(f"rank={rank!r} must be a whole number, at least 1")
    if not 0 < scale < math.inf:
        raise ValueError(f"scale={scale!r} must be finite and above 0")
    plain = unwrapped(model)
    present = [path for path, _ in adapted(plain)]
    if present:
        raise ValueError(f"the model has adapters already, in {present[0]!r}: remove their handle, or merge and unload "
                         "them, before others are added")
    learning = set(matching([canonical(name) for name, _ in plain.named_parameters()], head, "parameters"))
    paths = chosen(plain, modules, inputs, learning)
    flags = [(parameter, parameter.requires_grad) for parameter in plain.parameters()]
    whole = {id(parameter) for name, parameter in plain.named_parameters() if canonical(name) in learning}

    def restore() -> None:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
        vars(plain).pop("peft_config", None)  # older releases of peft leave it there

    try:
        _inject(plain, paths, rank, scale)
        _start(plain, paths, seed)
    except BaseException:
        _remove(plain, merge=False)
        restore()
        raise
    for parameter, flag in flags:
        parameter.requires_grad_(flag and id(parameter) in whole)
        if not parameter.requires_grad:
            parameter.grad = None
    held = still(plain)

    def undo() -> None:
        _remove(plain, merge=True)
        restore()
        held.remove()

    return Handle(undo)


def _inject(model: nn.Module, paths: Collection[str], rank: int, scale: float) -> None:
    """Let peft put its layers around those of the paths."""
    try:
        import peft
    except ModuleNotFoundError as error:
        if error.name != "peft":
            raise
        raise ModuleNotFoundError("LoRA needs the extra 'peft': pip install 'forgetting[peft]'", name="peft") from error
    # One expression for whole paths: peft would match the entries of a list at the end of any path.
    pattern = "|".join(re.escape(path) for path in paths)
    settings = peft.LoraConfig(r=rank, lora_alpha=scale * rank, target_modules=pattern, lora_dropout=0.0, bias="none")
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.filterwarnings("ignore", message="fan_in_fan_out is set to")  # it sets it right a layer
        peft.LoraModel(model, settings, _NAME)


def _start(model: nn.Module, paths: Sequence[str], seed: int) -> None:
    """The first values of the adapters, by a generator of their own, in float32 or better; modes as around them."""
    generator = torch.Generator().manual_seed(seed)
    layers = dict(adapted(model))
    if len(layers) != len(paths):
        raise RuntimeError(f"peft added {len(layers)} adapters for {len(paths)} layers: {sorted(layers)[:5]}, …")
    for layer in layers.values():
        down, up = layer.lora_A[_NAME], layer.lora_B[_NAME]
        dtype = torch.promote_types(down.weight.dtype, torch.float32)
        down.to(dtype)
        up.to(dtype)
        first = torch.empty(down.weight.shape, dtype=torch.float32)
        first.uniform_(-1, 1, generator=generator).div_(math.sqrt(first[0].numel()))
        with torch.no_grad():
            down.weight.copy_(first)
            up.weight.zero_()
        layer.train(layer.base_layer.training)


@torch.no_grad()
def _remove(model: nn.Module, *, merge: bool) -> None:
    """Put the layers back to where they were, with or without what their adapters learned."""
    for path, layer in list(adapted(model)):
        if merge:
            layer.merge()
        parent, _, name = path.rpartition(".")
        setattr(model.get_submodule(parent), name, layer.base_layer)
