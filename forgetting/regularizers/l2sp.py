"""L2-SP: every weight is held at its starting point, all equally."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import nn

from forgetting.curvature import Anchored, Curvature, Identity
from forgetting.curvature.stored import Stored, kept
from forgetting.parameters import Parameters, Selection, named, select
from forgetting.regularizers.consolidated import Consolidated, blend
from forgetting.regularizers.quadratic import QuadraticRegularizer


class L2SP(QuadraticRegularizer):
    """Pulls the weights to their starting point, and those that have none to zero.

    ½·λ·(Σ_g s_g·‖θ_g − θ*_g‖² + head·‖θ_new‖²), with θ* the weights at the last ``consolidate(model)`` (which needs
    no data) and θ_new the trainable parameters without an anchor: new since then, or left out by ``parameters=``.

    Args:
        strength: λ ≥ 0, the paper's α.
        groups: pattern -> relative strength s ≥ 0, the first pattern that matches a name counts; 1 elsewhere.
        head: relative strength ≥ 0 of the pull to zero of parameters without an anchor, the paper's β/α.
        parameters: patterns (or a function of the name) that say what is anchored; a head that will be replaced is
            not. Frozen parameters are anchored too: they may be unfrozen later.
        storage: in how many bits the anchor is kept: ``"bfloat16"`` and ``"int8"`` both take 16, see
            :class:`~forgetting.regularizers.QuadraticRegularizer`.
        offload: keep it in the CPU's memory, likewise.

    Raises:
        ValueError: for a relative strength that is negative or not finite; at ``consolidate``, for a pattern that
            matches no parameter.

    **Cost**: memory of one copy of the parameters; no data; a step is one pass over the parameters.

    There is no ``normalize=``: the mean of the identity is 1 already, and ``groups`` are wanted as they are given.

    **Reference**: Li, Grandvalet and Davoine 2018 (arXiv 1802.01483), equation 2, there α/2 and β/2.
    **Differs**: the anchor is a copy of every covered weight, never an alias (fault F11), and biases and norm
    weights are anchored like others.

    Example:
        >>> model = nn.Linear(2, 1)
        >>> l2sp = L2SP(strength=2.0, groups={"bias": 0.5})
        >>> l2sp.consolidate(model)
        >>> model.bias.data += 2.0
        >>> round(l2sp.penalty(model).item(), 4)
        2.0
    """

    needs_data: ClassVar[bool] = False

    def __init__(
        self,
        strength: float,
        *,
        groups: Mapping[str, float] | None = None,
        head: float = 0.0,
        parameters: Selection = None,
        storage: str = "float32",
        offload: bool = False,
    ) -> None:
        super().__init__(strength, decay=0.0, parameters=parameters, storage=storage, offload=offload)
        for pattern, relative in {**(groups or {}), "head": head}.items():
            if not 0 <= relative < math.inf:
                raise ValueError(f"the relative strength of {pattern!r} is {relative}; it is finite and at least 0")
        self.groups = dict(groups or {})
        self.head = float(head)

    def consolidate(
        self, model: nn.Module, data: Any = None, *, outputs: Any = None,
        curvature: Curvature | Anchored | None = None,
    ) -> None:
        """Make the present weights the anchor; an earlier one is forgotten. ``data`` and ``outputs`` are not read.

        Raises:
            ValueError: where a ``curvature`` is given, which would make it another method.
        """
        if curvature is not None:
            raise ValueError("L2SP weighs all weights alike and takes no curvature=; use groups= for relative "
                             "strengths, or EWC for a matrix of your own")
        self._announce(model)
        anchored = blend(None, self.estimate(model, data, outputs), named(model, trainable=False), self.decay)
        earlier = self._consolidated.tasks if self._consolidated is not None else 0
        self._consolidated = self._kept(replace(anchored, tasks=earlier + 1, divisors=(1.0,) * (earlier + 1)))

    def estimate(self, model: nn.Module, data: Any, outputs: Any) -> Curvature:
        """The identity with each parameter's relative strength."""
        names = list(named(model, self.parameters, trainable=False))
        scales = dict.fromkeys(names, 1.0)
        for pattern in reversed(self.groups):
            scales.update(dict.fromkeys(select(names, pattern), float(self.groups[pattern])))
        return Identity(scales)

    def _reaching(self, model: nn.Module) -> tuple[Consolidated, Parameters] | None:
        """What is remembered and, with a pull to zero, the trainable parameters that have no anchor."""
        remembered = self._remembered(model)
        if remembered is None or self.head == 0:
            return remembered
        state, live = remembered
        new = {name: weight for name, weight in named(model, trainable=False).items()
               if name not in live and weight.requires_grad}
        head = Identity(dict.fromkeys(new, self.head))
        zeros = {name: torch.zeros_like(weight, dtype=torch.promote_types(weight.dtype, torch.float32))
                 for name, weight in new.items()}
        anchor = Stored({**kept(state.anchor), **zeros})
        reaching = replace(state, curvature=state.curvature.blend(head, 1.0), anchor=anchor)
        return reaching, {**live, **new}
