"""The one penalty of many names: ½·λ·(θ−θ*)ᵀF(θ−θ*)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from forgetting.curvature import Curvature, restored
from forgetting.parameters import Parameters, Selection, select
from forgetting.regularizers.base import MODES, Regularizer
from forgetting.regularizers.consolidated import Consolidated, blend, covered, merge, moved_to
from forgetting.regularizers.steps import Action, Step, add_to_gradients, move_back, proximal_factors

ANCHORS = ("latest", "separate")


class QuadraticRegularizer(Regularizer):
    """Pulls every weight back to where it was, as hard as a matrix F says: ½·λ·((θ−μ)ᵀA(θ−μ) + c).

    A concrete method says only what F is, in :meth:`estimate`. What is kept is one matrix, one anchor and one
    number, whatever the number of tasks:

    * ``anchors="latest"``: A ← γA + F and μ ← θ*, the weights of the last ``consolidate``; c = 0.
    * ``anchors="separate"``: the sum of one penalty a task, each with its own anchor, merged without loss:
      S = γA + F; c ← γc + Σ(γAF/S)(θ*−μ)²; μ ← μ + (F/S)(θ*−μ); A ← S. Where S is 0, μ is θ*.

    Args:
        strength: λ ≥ 0 with F a mean over examples.
        decay: γ in [0, 1], the weight of the old matrix when a new one is added.
        anchors: ``"latest"`` or ``"separate"``.
        parameters: which parameters the penalty covers; a head that will be replaced does not belong to them.

    Raises:
        ValueError: for a decay outside [0, 1] or anchors of another name.

    **Cost**: memory of two copies of the parameters (``"separate"``: four, two of which only the next merge reads),
    whatever the number of tasks; a penalty is two passes over them, forward and backward, and keeps nothing between.

    **Reference**: Kirkpatrick et al. 2017 (arXiv 1612.00796), equation 3; Huszár 2018 (arXiv 1712.03847) for one
    matrix in place of many. **Differs**: F is a mean over examples, never a sum.
    """

    modes: ClassVar[tuple[str, ...]] = MODES
    properties: ClassVar[frozenset[str]] = frozenset({"anchored", "quadratic", "linear"})
    needs_data: ClassVar[bool] = True

    def __init__(
        self, strength: float, *, decay: float = 1.0, anchors: str = "latest", parameters: Selection = None
    ) -> None:
        super().__init__(strength)
        if not 0 <= decay <= 1:
            raise ValueError(f"decay is {decay}; it weighs the old matrix and lies in [0, 1]")
        if anchors not in ANCHORS:
            raise ValueError(f"anchors={anchors!r} does not exist: choose one of {', '.join(ANCHORS)}")
        self.decay = decay
        self.anchors = anchors
        self.parameters = parameters
        self._consolidated: Consolidated | None = None

    @abstractmethod
    def estimate(self, model: nn.Module, data: Any, outputs: Any) -> Curvature:
        """F of the task that the model has just learned."""

    @property
    def consolidated(self) -> Consolidated | None:
        """What is remembered; ``None`` before :meth:`consolidate`."""
        return self._consolidated

    def consolidate(
        self, model: nn.Module, data: Any = None, *, outputs: Any = None, curvature: Curvature | None = None
    ) -> None:
        """Add the present weights, and F estimated from ``data`` or given as ``curvature``, to what is remembered.

        Args:
            model: left as found. Its present weights are the anchor.
            data: an iterable of batches of the task; not needed where ``needs_data`` is ``False``.
            outputs: the columns of the logits that belong to the task.
            curvature: F, computed earlier or by somebody else; its names must be the model's.

        Raises:
            ValueError: for both or neither of ``data`` and ``curvature``; for a parameter that the matrix covers
                and the model lacks or has in another shape. What was remembered before is kept then.
        """
        found = self._given(curvature, data) if curvature is not None else self._estimated(model, data, outputs)
        shapes = {name: value.shape if value.dim() else None for name, value in found.diagonal().items()}
        live = covered(model, shapes, "the matrix")
        old, known = self._remembered(model) or (None, {})
        add = merge if self.anchors == "separate" else blend
        self._consolidated = add(old, found, {**known, **live}, self.decay)

    def penalty(self, model: nn.Module, inputs: Any = None, outputs: Any = None) -> Tensor:
        """½·λ·((θ−μ)ᵀA(θ−μ) + c), differentiable twice; a 0 without a graph before consolidation and at strength 0.

        Raises:
            ValueError: where a covered parameter vanished, was renamed or changed shape.
        """
        reaching = self._reaching(model)
        if reaching is None or self.strength == 0:
            return self.zero(model)
        state, live = reaching
        names = state.curvature.names()
        weights = [live[name] for name in names]
        half = _HalfQuadratic.apply(state.curvature, names, [state.anchor[name] for name in names], *weights)
        value = self.strength * (half + 0.5 * state.constant)
        return value.to(torch.promote_types(weights[0].dtype, torch.float32))

    def pull(self, model: nn.Module) -> Parameters:
        """λ·A(θ−μ), the penalty's gradient by parameter name, in float32 or better; empty before consolidation."""
        reaching = self._reaching(model)
        return self._pull(*reaching) if reaching is not None else {}

    def _pull(self, state: Consolidated, live: Parameters) -> Parameters:
        """λ·A(θ−μ) of a state and the weights that it covers."""
        with torch.no_grad():
            product = state.curvature.product(_difference(live, state))
            return {name: value.mul_(self.strength) for name, value in product.items()}

    def _actions(self, model: nn.Module, mode: str) -> dict[str, Action]:
        if mode == "gradient":
            return {"pull": partial(self._pull_once, model)}
        return {"proximal": partial(self._step_back, model)} if mode == "proximal" else {}

    def _pull_once(self, model: nn.Module, step: Step) -> None:
        """Stage "pull" of an optimizer's step."""
        reaching = self._reaching(model)
        if reaching is not None and self.strength > 0:
            add_to_gradients(step, reaching[1], self._pull(*reaching))

    def _step_back(self, model: nn.Module, step: Step) -> None:
        """Stage "proximal" of an optimizer's step."""
        reaching = self._reaching(model)
        if reaching is None or self.strength == 0:
            return
        state, live = reaching
        factors = proximal_factors(step.optimizer, live, self.strength)
        move_back(step, live, state.curvature.retract(_difference(live, state), factors), factors)

    def _given(self, curvature: Curvature, data: Any) -> Curvature:
        """A matrix that the caller brought, cut to what ``parameters=`` covers."""
        if data is not None:
            raise ValueError("consolidate takes data= or curvature=, not both: a matrix that is given is not estimated")
        if not isinstance(curvature, Curvature):
            raise TypeError(f"curvature= takes a matrix of forgetting.curvature, such as Diagonal(values) or "
                            f"Diagonal.load(path), not a {type(curvature).__name__}")
        return curvature.restricted(select(curvature.names(), self.parameters))

    def _estimated(self, model: nn.Module, data: Any, outputs: Any) -> Curvature:
        """The matrix of the data."""
        if data is None and self.needs_data:
            raise ValueError(f"consolidate needs data= (batches of the task just learned) or curvature= (a matrix "
                             f"computed earlier) to tell which weights matter to {type(self).__name__}")
        return self.estimate(model, data, outputs)

    def _remembered(self, model: nn.Module) -> tuple[Consolidated, Parameters] | None:
        """What is remembered, moved to where the model lives, and the weights that it covers."""
        state = self._consolidated
        if state is None:
            return None
        live = covered(model, {name: value.shape for name, value in state.anchor.items()}, "consolidate")
        self._consolidated = moved_to(state, live)
        return self._consolidated, live

    def _reaching(self, model: nn.Module) -> tuple[Consolidated, Parameters] | None:
        """What the penalty covers in this model; a method that also covers what is new adds it here."""
        return self._remembered(model)

    def _learned(self) -> dict[str, Any]:
        state = self._consolidated
        if state is None:
            return {"tasks": 0}
        return {
            "tasks": state.tasks, "constants": dict(state.constants), "curvature": state.curvature.state_dict(),
            "anchor": dict(state.anchor), "rests": {kind: dict(rest) for kind, rest in state.rests.items()},
        }

    def _restore(self, learned: Mapping[str, Any]) -> None:
        """Take over a state, cut to what ``parameters=`` covers: the way out when a head was replaced."""
        if not learned["tasks"]:
            self._consolidated = None
            return
        curvature = restored(learned["curvature"])
        names = select(curvature.names(), self.parameters)
        self._consolidated = Consolidated(
            curvature.restricted(names),
            {name: learned["anchor"][name] for name in names},
            {name: learned["constants"].get(name, 0.0) for name in names},
            learned["tasks"],
            {kind: {name: rest[name] for name in names} for kind, rest in learned["rests"].items()},
        )


class _HalfQuadratic(torch.autograd.Function):
    """½·(θ−μ)ᵀA(θ−μ) with the gradient A(θ−μ) in closed form: no graph a parameter, nothing kept but the weights."""

    @staticmethod
    def forward(ctx: Any, curvature: Curvature, names: tuple[str, ...], anchor: list[Tensor],
                *weights: Tensor) -> Tensor:
        ctx.curvature, ctx.names, ctx.anchor = curvature, names, anchor
        ctx.save_for_backward(*weights)
        delta, product = _HalfQuadratic.product(curvature, names, anchor, weights)
        terms = [delta[name].mul_(product[name]).sum() for name in names]
        if not terms:
            return torch.zeros(())
        dtype = max((term.dtype for term in terms), key=lambda dtype: torch.finfo(dtype).bits)
        return 0.5 * torch.stack([term.to(terms[0].device, dtype) for term in terms]).sum()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        weights = ctx.saved_tensors
        _, product = _HalfQuadratic.product(ctx.curvature, ctx.names, ctx.anchor, weights)
        needed = ctx.needs_input_grad[3:]
        gradients = [
            product[name].mul_(gradient.to(weight.device)).to(weight.dtype) if wanted else None
            for name, weight, wanted in zip(ctx.names, weights, needed, strict=True)
        ]
        return (None, None, None, *gradients)

    @staticmethod
    def product(curvature: Curvature, names: tuple[str, ...], anchor: list[Tensor],
                weights: tuple[Tensor, ...]) -> tuple[Parameters, Parameters]:
        """θ−μ and A(θ−μ), at full precision also under autocast."""
        if not names:
            return {}, {}
        with torch.autocast(weights[0].device.type, enabled=False):
            delta = dict(zip(names, torch._foreach_sub(list(weights), anchor), strict=True))
            return delta, curvature.product(delta)


def _difference(live: Parameters, state: Consolidated) -> Parameters:
    """θ−μ, in the anchor's precision or better."""
    return {name: live[name].detach() - state.anchor[name] for name in state.curvature.names()}
