"""Norm statistics: running means and variances, which forget although no weight changes (fault F28)."""

from __future__ import annotations

import sys
from collections.abc import Iterable

import torch
from torch import nn

from forgetting.parameters import Handle

__all__ = ["still"]

# Kept on the layer, so that they travel with copies of it.
_HOLDERS, _MODE = "_still_holders", "_still_mode"


def norm_layers(model: nn.Module) -> list[nn.Module]:
    """The modules that keep running statistics, each once."""
    return [module for module in model.modules() if module._buffers.get("running_mean") is not None]


def still(model: nn.Module) -> Handle:
    r"""Hold a model's norm statistics still: normalise by the stored ones, never update them.

    .. math:: y = \gamma\,\frac{x - \hat\mu}{\sqrt{\hat\sigma^2 + \epsilon}} + \beta

    with the stored running mean :math:`\hat\mu` and variance :math:`\hat\sigma^2` in place of the batch's, in train
    mode as in eval mode. It holds through every later ``model.train()``: a hook in front of each such layer clears its
    ``training`` flag for the length of its own forward pass and a hook behind it puts the flag back, so that every
    flag reads as its owner set it (fault F7). The affine weights :math:`\gamma, \beta` are parameters like others and
    go on learning; see :func:`forgetting.freeze`. Dropout and all other layers keep their mode.

    Args:
        model: any module. Concerned are the layers with a ``running_mean`` that is not ``None``: batch norms of torch
            (synchronised ones too), instance norms that track statistics, timm's and other subclasses. A model
            without any is left alone.

    Returns:
        A :class:`~forgetting.parameters.Handle`; ``remove()``, or the end of a ``with`` block, lets the statistics
        move again. Several handles may hold one layer: it is still until the last of them is removed. The hooks
        travel with ``copy.deepcopy`` and ``pickle``; such a copy stays still for good.

    Cost:
        Two function calls a norm layer and forward pass; no copy of anything. Code that ``torch.compile`` made before
        does not look at new hooks, so the call, like ``remove()``, makes torch forget compiled code: whatever is
        compiled in this process is compiled once more at its next use.

    Reference:
        Ioffe and Szegedy, "Batch Normalization", 2015 (arXiv 1502.03167), algorithm 2.

    Differs:
        From ``momentum = 0``, which stops the update but still normalises by the batch; and from ``module.eval()``,
        which the next ``model.train()`` undoes.

    Example:
        >>> model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).train()
        >>> with still(model):
        ...     _ = model(torch.randn(8, 3, generator=torch.Generator().manual_seed(0)) + 5)
        >>> model[1].running_mean, model[1].training
        (tensor([0., 0.]), True)
    """
    return hold(norm_layers(model))


def hold(layers: Iterable[nn.Module]) -> Handle:
    """Hold these norm layers still, see :func:`still`."""
    layers = list(layers)
    for layer in layers:
        marks = vars(layer)
        marks[_HOLDERS] = marks.get(_HOLDERS, 0) + 1
        if marks[_HOLDERS] == 1:
            layer.register_forward_pre_hook(_enter)
            layer.register_forward_hook(_leave, always_call=True)

    def release() -> None:
        for layer in layers:
            vars(layer)[_HOLDERS] -= 1
            if vars(layer)[_HOLDERS] == 0:
                _unhook(layer)
        _forget_compiled_code(layers)

    _forget_compiled_code(layers)
    return Handle(release)


def _enter(layer: nn.Module, _inputs: object) -> None:
    """Clear the layer's train flag for its own forward pass."""
    vars(layer)[_MODE] = layer.training
    layer.training = False


def _leave(layer: nn.Module, _inputs: object, _output: object) -> None:
    """Put the layer's train flag back."""
    layer.training = vars(layer).pop(_MODE)


def _unhook(layer: nn.Module) -> None:
    """Take the two hooks and their marks off a layer."""
    for hooks, ours in ((layer._forward_pre_hooks, _enter), (layer._forward_hooks, _leave)):
        for key in [key for key, hook in hooks.items() if hook is ours]:
            del hooks[key]
            layer._forward_hooks_always_called.pop(key, None)
    del vars(layer)[_HOLDERS]
    if _MODE in vars(layer):
        # A keyboard interrupt inside the layer: torch runs no hook behind it.
        layer.training = vars(layer).pop(_MODE)


def _forget_compiled_code(layers: list[nn.Module]) -> None:
    """Make ``torch.compile`` look again: its guards skip hooks, so old code would let the statistics move."""
    if layers and "torch._dynamo" in sys.modules:
        torch.compiler.reset()
