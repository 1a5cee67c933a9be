"""The layers that matter most are frozen, as a matrix says."""

from __future__ import annotations

import logging
from typing import Any

from torch import nn

from forgetting.curvature import Curvature
from forgetting.freezing.coverage import by_depth, covered, state
from forgetting.freezing.frozen import Frozen, out_of_learning
from forgetting.parameters import Selection, canonical

__all__ = ["freeze_important"]

_log = logging.getLogger(__name__)


def freeze_important(
    model: nn.Module, curvature: Curvature, share: float = 0.5, *, keep: Selection = None, inputs: Any = None
) -> Frozen:
    r"""Freeze the layers that hold the most importance; the others learn.

    .. math:: m_g = \sum_{i \in g} F_{ii}, \qquad
              S = \{g_1, \dots, g_k\} \text{ with the smallest } k \text{ for which }
              \sum_{j \le k} m_{g_j} \ge s \sum_j m_{g_j}, \qquad m_{g_1} \ge m_{g_2} \ge \dots

    with :math:`F` the matrix, :math:`m_g` the mass of layer :math:`g`, :math:`s` the share and :math:`S` what is
    frozen. The layers are those of :func:`~forgetting.execution.execution_groups` with ``blocks=True``; of layers with
    equal mass the one nearer to the input comes first. The last layer that a forward pass uses always learns and its
    mass does not count, nor does that of what ``keep`` covers: a head is not frozen because its gradients are large.

    "Frozen" means what it means for :func:`freeze`: no gradient, no optimizer update, no statistics that move.

    Args:
        model: any module.
        curvature: what matters, of the task to be kept: :func:`forgetting.fisher.diagonal` or any other matrix over
            the model's parameters. A parameter that it does not know has no mass.
        share: part of the mass that is frozen at least, in (0, 1]. A layer without mass is never frozen.
        keep: patterns, or a function of the name, as in :func:`freeze`: a layer with such a parameter always learns,
            in place of the last one. Needed where the head is not what runs last, as where it is tied to an embedding.
        inputs: one forward pass's inputs, which tell what runs last; ``None`` takes the order of registration.

    Returns:
        A handle that says what is frozen, as the log (``forgetting.freezing``, level info) does.

    Raises:
        ValueError: for a share out of its range; where the matrix knows a name that the model lacks, or has it in
            another shape; where no layer that may be frozen holds any mass; where nothing would be left that learns.
        TypeError: where ``curvature`` is no matrix.

    Cost:
        One sum over the matrix; with ``inputs`` one forward pass. Afterwards a step is as cheap as the lowest
        parameter that learns allows.

    Reference:
        Kirkpatrick et al., "Overcoming catastrophic forgetting in neural networks", 2017 (arXiv 1612.00796), eq. 3.

    Differs:
        Their penalty with an infinite strength on the frozen layers and none on the others; that the mass of whole
        layers decides is this library's choice.

    Example:
        >>> import torch
        >>> from forgetting.curvature import Diagonal
        >>> model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 3), nn.Linear(3, 2))
        >>> fisher = Diagonal({"0.weight": torch.full((3, 4), 0.1), "1.weight": torch.ones(3, 3)})
        >>> with freeze_important(model, fisher, 0.5) as frozen:
        ...     frozen.names
        ('1.weight', '1.bias')
    """
    if not isinstance(curvature, Curvature):
        raise TypeError(f"curvature= takes a matrix of forgetting.curvature, such as forgetting.fisher.diagonal gives, "
                        f"not a {type(curvature).__name__}")
    if not 0 < share <= 1:
        raise ValueError(f"share={share!r} must lie in (0, 1]: it is the part of the mass that is frozen")
    everything = state(model)
    used, unused = by_depth(model, inputs, blocks=True)
    kept = {id(everything[name]) for name in used[-1]} if keep is None else covered(everything, keep)
    layers = [names for names in used + unused if not kept & {id(everything[name]) for name in names}]
    chosen, part = _heaviest(layers, _masses(model, curvature), share)
    frozen = out_of_learning(model, {id(everything[name]) for names in chosen for name in names})
    _log.info("%d of %d layers are frozen, with %.1f %% of the mass: %s", len(chosen), len(used) + len(unused),
              100 * part, ", ".join(frozen.names))
    return frozen


def _masses(model: nn.Module, curvature: Curvature) -> dict[str, float]:
    """The trace of each parameter's block."""
    sizes = {canonical(name): parameter for name, parameter in model.named_parameters()}
    masses = {}
    for name, value in curvature.diagonal().items():
        if name not in sizes:
            raise ValueError(f"the matrix covers {name!r}, which this {type(model).__name__} does not have: give it "
                             "the matrix of this model, or cut it: curvature.restricted(names)")
        if value.dim() and value.shape != sizes[name].shape:
            raise ValueError(f"the matrix has {name!r} of shape {tuple(value.shape)}, the model of shape "
                             f"{tuple(sizes[name].shape)}: leave a layer that was replaced out, by "
                             "curvature.restricted(names)")
        masses[name] = float(value.double().sum()) * (sizes[name].numel() / max(1, value.numel()))
    return masses


def _heaviest(layers: list[list[str]], masses: dict[str, float], share: float) -> tuple[list[list[str]], float]:
    """The fewest layers with this share of the mass, in the model's order, and the share that they have."""
    mass = [sum(masses.get(name, 0.0) for name in names) for names in layers]
    falling = sorted(range(len(layers)), key=lambda place: (-mass[place], place))
    whole = sum(mass[place] for place in falling)
    if not whole > 0:
        raise ValueError(f"the matrix has no mass on any of the {len(layers)} layers that may be frozen: it is 0 there "
                         "or covers only what always learns")
    chosen, reached = [], 0.0
    for place in falling:
        if reached >= share * whole:
            break
        chosen.append(place)
        reached += mass[place]
    return [layers[place] for place in sorted(chosen)], reached / whole
