"""Synaptic intelligence: a weight is held as hard as it made the loss fall on its way."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import nn

from forgetting.curvature import Curvature, Diagonal
from forgetting.parameters import Selection
from forgetting.regularizers.path import PathRegularizer


class SI(PathRegularizer):
    """Holds each weight by what it did for the loss while the task was learned, over how far it had to go for it.

    ½·λ·Σ F_i(θ_i − θ*_i)² with F_i = max(ω_i, 0) / ((θ_i(end) − θ_i(start))² + ξ), where ω_i = Σ −g_i·Δθ_i adds up over
    the optimizer's steps: g the gradient of the task's loss alone, Δθ the step. Σ ω_i is how much the loss fell, in the
    limit of small steps on all the data. F adds up over tasks (``decay=1``).

    It has to listen while a task is learned, the source task too: ``attach(model, optimizer)`` before the training,
    ``consolidate(model)`` after it, without data. Of a model that somebody else trained there is no path, nothing is
    held, and a warning says so; :class:`~forgetting.regularizers.EWC` and :class:`~forgetting.regularizers.MAS` need
    data instead.

    Args:
        strength: λ ≥ 0. The paper's c multiplies F without the ½: λ = 2c. With the exact path, c = 1 would weigh old
            and new alike; the paper takes c = 1 (split MNIST) and 0.1.
        damping: the paper's ξ > 0, in squared weights: it bounds the importance of what hardly moved. The paper takes
            0.001 (split MNIST) and 0.1.
        decay: γ in [0, 1], the weight of the old matrix when a task is added.
        anchors: ``"latest"`` (the paper's) or ``"separate"``, see
            :class:`~forgetting.regularizers.QuadraticRegularizer`.
        parameters: patterns (or a function of the name) that say what is listened to and held.
        storage: in how many bits anchor and importance are kept, likewise; the path itself is in float32.
        offload: keep them in the CPU's memory, likewise.
        normalize: ``"mean"`` or ``"trace"``: divide each task's matrix by that, likewise.

    Raises:
        ValueError: for a damping that is not above 0; see also
            :class:`~forgetting.regularizers.QuadraticRegularizer`.

    Warns:
        UserWarning: from ``consolidate``, where no step was listened to.

    **Cost**: no data and no pass to consolidate. Memory: four copies of the parameters, two more while attached. A
    step: weights and gradients are copied before it, and one pass goes over them, the new weights and the path after
    it; in mode ``"loss"`` one fused pass more, which takes the penalty's own gradient out.

    **Reference**: Zenke, Poole and Ganguli 2017 (arXiv 1703.04200), equations 3 to 5.
    **Differs**: ω < 0 (the loss grew along that weight) counts as 0. Δθ is the whole step, weight decay, momentum and
    proximal pulls included: the integral is taken along the way that was really gone. Clipped gradients are read as
    they are clipped (mode ``"gradient"``; under mode ``"loss"`` a clipped penalty would not come out whole). Nothing is
    cut off from above (fault F3).

    Example:
        >>> import torch
        >>> model = nn.Linear(2, 1, bias=False)
        >>> optimizer, si = torch.optim.SGD(model.parameters(), lr=0.1), SI(strength=1.0)
        >>> with si.attach(model, optimizer):
        ...     for _ in range(3):
        ...         optimizer.zero_grad()
        ...         model(torch.eye(2)).square().sum().backward()
        ...         optimizer.step()
        >>> si.consolidate(model)
        >>> model.weight.data += 1.0
        >>> si.penalty(model).item() > 0
        True
    """

    needs_data: ClassVar[bool] = False
    _inert_because: ClassVar[str] = (
        "It may have listened to no step since the last consolidate: attach it while the task is learned "
        "(attach(model, optimizer) before the training); for a model whose training is over use EWC or MAS, which look "
        "at data")

    def __init__(
        self,
        strength: float,
        *,
        damping: float = 1e-3,
        decay: float = 1.0,
        anchors: str = "latest",
        parameters: Selection = None,
        storage: str = "float32",
        offload: bool = False,
        normalize: str = "none",
    ) -> None:
        super().__init__(strength, decay=decay, anchors=anchors, parameters=parameters, storage=storage,
                         offload=offload, normalize=normalize)
        if not 0 < damping < float("inf"):
            raise ValueError(f"damping is {damping}; it is added to a squared distance, finite and above 0")
        self.damping = float(damping)

    def estimate(self, model: nn.Module, data: Any, outputs: Any) -> Curvature:
        """What each weight did for the loss, over its squared distance; ``data`` and ``outputs`` are not read."""
        live = self._walked(model)
        found = {}
        for name, weight in live.items():
            moved = weight.detach() - self._of("start", name, weight)
            found[name] = self._of("integral", name, weight).clamp(min=0) / (moved.square() + self.damping)
        return Diagonal(found)
