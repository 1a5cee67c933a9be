"""Riemannian walk: the Fisher information at the end of a task, and what each weight did for the loss on the way."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from forgetting import fisher
from forgetting.curvature import Curvature, Diagonal
from forgetting.parameters import Parameters, Selection
from forgetting.regularizers.path import PathRegularizer


class RWalk(PathRegularizer):
    """Holds each weight by its Fisher information plus what it did for the loss, per distance between distributions.

    ½·λ·Σ A_i(θ_i − θ*_i)² with A = F/max F + s/max s, each term in [0, 1]. F is the diagonal of the empirical Fisher
    information at θ*: the mean over examples of (∂ log p(y|x,θ*)/∂θ_i)². s_i = max(0, Σ_k ω_ik / (½·F_ik·Δ_ik² + ε))
    adds up over intervals k of some steps: ω_ik = Σ −g_i·Δθ_i with g the gradient of the task's loss alone, Δ_ik how
    far the weight went in the interval, F_ik the mean of g_i² in it; ½FΔ² is about the KL divergence that the move
    makes.

    ``attach(model, optimizer)`` before the training, ``consolidate(model, data)`` after it. Modes of modules are left
    as they are while it listens (fault F5). Without a path (a model that somebody else trained) a warning says so, and
    F alone holds.

    Args:
        strength: λ ≥ 0; the paper's multiplies without the ½, so λ = 2·theirs. A lies in [0, 2] after one task.
        interval: steps in which ω and Δ are added up before they are divided, ≥ 1.
        damping: the paper's ε > 0, in units of KL divergence. Where it is far above ½FΔ², which is common at its
            default, s is the path integral over ε, and the division by max s takes ε out.
        decay: γ in [0, 1], the weight of the old matrix when a task is added.
        anchors: ``"latest"`` (the paper's) or ``"separate"``, see
            :class:`~forgetting.regularizers.QuadraticRegularizer`.
        parameters: patterns (or a function of the name) that say what is listened to and held.
        likelihood: what the outputs mean, see :mod:`forgetting.fisher`; ``None`` for classification.
        forward: ``(model, batch) -> (outputs, targets)`` for batches that are no ``(inputs, targets)`` pairs.
        examples: how many examples of ``data`` to use; ``None`` for all.
        storage: in how many bits anchor and importance are kept, likewise; the path itself is in float32.
        offload: keep them in the CPU's memory, likewise.
        normalize: ``"mean"`` or ``"trace"``: divide each task's matrix by that, likewise.

    Raises:
        ValueError: for an interval below 1 or a damping that is not above 0; see also
            :class:`~forgetting.regularizers.QuadraticRegularizer`.

    Warns:
        UserWarning: from ``consolidate``, where no step was listened to.

    **Cost**: consolidation is one pass over ``data`` with one backward. Memory: six copies of the parameters, two more
    while attached. A step: as :class:`~forgetting.regularizers.SI`, with the squares in the same pass; the scores once
    an interval.

    **Reference**: Chaudhry, Dokania, Ajanthan and Torr 2018 (arXiv 1801.10112), section 4, equations 6 to 8.
    **Differs**: EWC++ (equation 6) makes F a moving average over the steps, for which a step has only the square of a
    batch's mean gradient: its scale is that of the batch size (fault F1). Here F is estimated example by example, once,
    at θ*; batch squares serve as the metric F_ik only, whose scale the normalisation takes out again but for ε. The
    terms are divided by their maxima before tasks are added, not after. ``decay=0.5`` weighs tasks as the paper's
    running mean of scores does, at twice its scale, but for the first, which has half its share there. s is cut at 0
    once, after the sum.

    Example:
        >>> import torch
        >>> model = nn.Linear(2, 2)
        >>> data = [(torch.eye(2), torch.tensor([0, 1]))]
        >>> optimizer, rwalk = torch.optim.SGD(model.parameters(), lr=0.1), RWalk(strength=1.0)
        >>> with rwalk.attach(model, optimizer):
        ...     for inputs, targets in data:
        ...         nn.functional.cross_entropy(model(inputs), targets).backward()
        ...         optimizer.step()
        >>> rwalk.consolidate(model, data)
        >>> round(rwalk.consolidated.curvature.largest(), 4) <= 2
        True
    """

    def __init__(
        self,
        strength: float,
        *,
        interval: int = 10,
        damping: float = 1e-3,
        decay: float = 0.5,
        anchors: str = "latest",
        parameters: Selection = None,
        likelihood: Any = None,
        forward: Callable[..., Any] | None = None,
        examples: int | None = None,
        storage: str = "float32",
        offload: bool = False,
        normalize: str = "none",
    ) -> None:
        super().__init__(strength, decay=decay, anchors=anchors, parameters=parameters, storage=storage,
                         offload=offload, normalize=normalize)
        if not isinstance(interval, int) or interval < 1:
            raise ValueError(f"interval={interval!r} is a number of steps, at least 1")
        if not 0 < damping < float("inf"):
            raise ValueError(f"damping is {damping}; it is added to a KL divergence, finite and above 0")
        self.interval = interval
        self.damping = float(damping)
        self.likelihood = likelihood
        self.forward = forward
        self.examples = examples
        self._steps: dict[str, int] = {}

    def estimate(self, model: nn.Module, data: Any, outputs: Any) -> Curvature:
        """F of the data and the path's scores, each over its largest entry."""
        live = self._walked(model)
        found = fisher.diagonal(
            model, data, labels="empirical", likelihood=self.likelihood, forward=self.forward, outputs=outputs,
            parameters=self.parameters, examples=self.examples,
        )
        if not self._path:
            warnings.warn(
                "RWalk has listened to no step since the last consolidate: this task has no path, and its Fisher "
                "information alone will hold. Attach it while the task is learned (attach(model, optimizer) before the "
                "training), or use EWC",
                stacklevel=5,
            )
        scores = {name: self._score(name, weight).clamp_(min=0) for name, weight in live.items()}
        values = _over_largest(scores)
        for name, value in _over_largest(found).items():
            values[name] = values[name] + value if name in values else value
        return Diagonal(values, examples=found.examples, labels=found.labels, routes=found.routes)

    def _score(self, name: str, weight: Tensor) -> Tensor:
        """A weight's score up to here, the interval that is not full included; a tensor of its own."""
        score = self._of("score", name, weight).clone()
        steps = self._steps.get(name, 0)
        if steps:
            moved = weight.detach() - self._of("start", name, weight)
            distance = self._of("squares", name, weight).mul(0.5 / steps).mul_(moved.square_())
            score += self._of("integral", name, weight) / distance.add_(self.damping)
        return score

    def _begin_anew(self) -> None:
        super()._begin_anew()
        self._steps = {}

    def _kinds(self) -> tuple[str, ...]:
        return "integral", "start", "squares", "score"

    def _add(self, live: Parameters, gradients: Sequence[Tensor], starts: Sequence[Tensor]) -> None:
        super()._add(live, gradients, starts)
        for name, weight in live.items():
            self._steps[name] = self._steps.get(name, 0) + 1
            if self._steps[name] == self.interval:
                self._path["score"][name] = self._score(name, weight)
                self._path["start"][name].copy_(weight)
                self._path["integral"][name].zero_()
                self._path["squares"][name].zero_()
                self._steps[name] = 0

    def _learned(self) -> dict[str, Any]:
        return {**super()._learned(), "steps": dict(self._steps)}

    def _restore(self, learned: Mapping[str, Any]) -> None:
        super()._restore(learned)
        self._steps = dict(learned["steps"])


def _over_largest(values: Mapping[str, Tensor]) -> Parameters:
    """The tensors over the largest of all their entries; as they are, where that is 0."""
    largest = max((float(value.max()) for value in values.values() if value.numel()), default=0.0)
    return {name: value / largest if largest > 0 else value for name, value in values.items()}
