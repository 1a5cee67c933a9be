"""The one penalty of many names: ½·λ·(θ−θ*)ᵀF(θ−θ*)."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from forgetting.curvature import Anchored, Curvature, restored
from forgetting.curvature.stored import Stored, from_state, kept
from forgetting.curvature.stored import state as plain
from forgetting.parameters import Parameters, Selection, named, select
from forgetting.regularizers import differentiable, doubled
from forgetting.regularizers.base import MODES, Regularizer
from forgetting.regularizers.consolidated import Consolidated, anchored_at, blend, covered, merge, moved_to
from forgetting.regularizers.normalized import (
    CERTAIN,
    NORMALIZATIONS,
    announce,
    divisor_of,
    normalized,
    warn_where_inert,
)
from forgetting.regularizers.pulls import add_pull, pull, step_back
from forgetting.regularizers.stability import Watch
from forgetting.regularizers.steps import Action, Step
from forgetting.regularizers.storage import STORAGES, expected, offloaded, stored, taken

ANCHORS = ("latest", "separate")
_log = logging.getLogger(__name__)


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
        storage: ``"float32"``; ``"bfloat16"`` (4 bytes a weight in place of 8); ``"int8"`` (3.1 bytes). See below.
        offload: keep anchor and importance in the CPU's memory, pinned where there is a GPU, to which they are copied a
            block at a time while the block before is worked on.
        normalize: ``"none"``; ``"mean"``: each task's F is divided by its mean over the covered weights before it is
            added, ``"trace"``: by its sum over them. One strength then means the same whatever the labels, the batches
            and the model; under ``"mean"`` it pulls as hard, on average over the weights, as L2-SP at that strength.
            What was divided by stands in ``consolidated.divisors``, one number a task, and strength ÷ divisor, the
            strength that does the same without, in the log. A matrix of zeros is left alone.

    **Fewer bits.** The importance A is stored in bfloat16, off by at most 0.4 %, or in 8 bits: logarithmic codes with
    a scale for each 128 neighbours, off by at most 2.8 % of A + 2⁻²⁰ of the largest neighbour; zero stays zero. Each
    later task rounds the sum anew, up or down by chance, so that the sum stays unbiased and small additions are not
    lost: the bounds are then 0.8 % and 5.6 % a task, and after 50 equal tasks the root mean square is 1 % and 8 %.
    The anchor takes 16 bits in both: as it is where bfloat16 or float16 holds it exactly, as for models in these, else
    in fixed point, off by at most 1.6·10⁻⁵ of the largest of 128 neighbours. (Eight bits and bfloat16 would both move
    it by up to 0.4 %, as far as fine-tuning does.) Differences count from the edge of that cell: the penalty at the
    anchor is 0, exactly, and a difference is too small by at most the cell. Only ``anchors="latest"`` and diagonals
    can be compressed. On a CPU unpacking doubles the time of a penalty.

    Raises:
        ValueError: for a decay outside [0, 1], anchors, a storage or a ``normalize`` of another name, or both separate
            and compressed; from ``load_state_dict``, for a state that was summed under another ``normalize``.
        TypeError: from ``consolidate``, for a matrix that is not diagonal in fewer bits, or offloaded.

    Warns:
        UserWarning: from ``consolidate``, where every importance is about 0 and nothing will be held; from ``attach``,
            where the pull would diverge or never be felt.

    **Cost**: memory of two copies of the parameters (``"separate"``: four, two of which only the next merge reads),
    whatever the number of tasks; :meth:`memory` says it in bytes beforehand. A diagonal penalty is one pass over θ, μ
    and A, which gives value and gradient together; the gradient is kept until ``backward`` hands it over, one copy of
    the weights that autograd would hold from then on anyway (to compute it again would take 1.7 times as long).
    ``attach(mode="gradient")`` adds it in place and keeps nothing. Weights in 16 bits, matrices that are not diagonal
    and sharded weights take a pass forward and one backward.

    **Reference**: Kirkpatrick et al. 2017 (arXiv 1612.00796), equation 3; Huszár 2018 (arXiv 1712.03847) for one
    matrix in place of many. **Differs**: F is a mean over examples, never a sum.
    """

    modes: ClassVar[tuple[str, ...]] = MODES
    properties: ClassVar[frozenset[str]] = frozenset({"anchored", "quadratic", "linear"})
    listens: ClassVar[bool] = False
    needs_data: ClassVar[bool] = True
    _inert_because: ClassVar[str] = CERTAIN

    def __init__(
        self, strength: float, *, decay: float = 1.0, anchors: str = "latest", parameters: Selection = None,
        storage: str = "float32", offload: bool = False, normalize: str = "none",
    ) -> None:
        super().__init__(strength)
        if not 0 <= decay <= 1:
            raise ValueError(f"decay is {decay}; it weighs the old matrix and lies in [0, 1]")
        for name, value, known in (("anchors", anchors, ANCHORS), ("storage", storage, STORAGES),
                                   ("normalize", normalize, tuple(NORMALIZATIONS))):
            if value not in known:
                raise ValueError(f"{name}={value!r} does not exist: choose one of {', '.join(known)}")
        if anchors == "separate" and storage != "float32":
            raise ValueError(f"storage={storage!r} needs anchors='latest': separate anchors are merged by differences "
                             "that only full precision can hold; use storage='float32' (perhaps with offload=True)")
        self.decay = decay
        self.anchors = anchors
        self.storage = storage
        self.offload = offload
        self.normalize = normalize
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
        self, model: nn.Module, data: Any = None, *, outputs: Any = None,
        curvature: Curvature | Anchored | None = None,
    ) -> None:
        """Add the present weights, and F estimated from ``data`` or given as ``curvature``, to what is remembered.

        Args:
            model: left as found. Its present weights are the anchor, unless ``curvature`` brings its own.
            data: an iterable of batches of the task; not needed where ``needs_data`` is ``False``.
            outputs: the columns of the logits that belong to the task.
            curvature: F, computed earlier or by somebody else; its names must be the model's. Or F with its anchor
                (:class:`~forgetting.curvature.Anchored`, from ``forgetting fisher``).

        Raises:
            ValueError: for both or neither of ``data`` and ``curvature``; for a parameter that the matrix covers
                and the model lacks or has in another shape. What was remembered before is kept then.
        """
        self._announce(model)
        given = curvature.anchor if isinstance(curvature, Anchored) else {}
        curvature = curvature.curvature if isinstance(curvature, Anchored) else curvature
        found = self._given(curvature, data) if curvature is not None else self._estimated(model, data, outputs)
        importances, kind = found.diagonal(), type(self).__name__
        live = covered(model, {name: value.shape if value.dim() else None for name, value in importances.items()},
                       "the matrix")
        warn_where_inert(kind, importances, self.normalize, self._inert_because)
        divisor = divisor_of(importances, live, self.normalize)
        del importances
        old, known = self._remembered(model) or (None, {})
        add = merge if self.anchors == "separate" else blend
        state = add(old, normalized(found, divisor), {**known, **anchored_at(live, given)}, self.decay)
        divisors = (*(old.divisors if old is not None else ()), divisor)
        self._consolidated = self._kept(replace(state, divisors=divisors))
        announce(kind, state.tasks, self.normalize, divisor, self.strength)

    def memory(self, model: nn.Module) -> dict[str, int]:
        """Bytes by part that the state takes; before :meth:`consolidate`, what it will take at most.

        Args:
            model: whose covered parameters are counted; nothing is allocated.

        Returns:
            ``"anchor"``, ``"importance"`` (of a diagonal, until a matrix is there), and ``"rests"``: what only the
            next merge of separate anchors reads.
        """
        if self._consolidated is not None:
            return taken(self._consolidated)
        live = named(model, self.parameters, trainable=self.needs_data)
        return expected(live, self.storage, importances=self.needs_data, separate=self.anchors == "separate")

    def _announce(self, model: nn.Module) -> None:
        """Say what will be taken, before it is."""
        parts = {part: count for part, count in self.memory(model).items() if count}
        _log.info("%s keeps %.1f MB %s: %s", type(self).__name__, sum(parts.values()) / 1e6,
                  "on the CPU" if self.offload else "where the model is",
                  ", ".join(f"{part} {count / 1e6:.1f}" for part, count in parts.items()))

    def penalty(self, model: nn.Module, inputs: Any = None, outputs: Any = None) -> Tensor:
        """½·λ·((θ−μ)ᵀA(θ−μ) + c), differentiable twice; a 0 without a graph before consolidation and at strength 0.

        Raises:
            ValueError: where a covered parameter vanished, was renamed or changed shape.
        """
        reaching = self._reaching(model)
        if reaching is None or self.strength == 0:
            return self.zero(model)
        state, live = reaching
        value = differentiable.value(state, live, self.strength) + 0.5 * self.strength * state.constant
        value = value.to(torch.promote_types(live[state.curvature.names()[0]].dtype, torch.float32))
        if value.requires_grad:
            look_out = doubled.look_out
            (torch.compiler.disable(look_out) if torch.compiler.is_compiling() else look_out)(self, value, live)
        return value

    def pull(self, model: nn.Module) -> Parameters:
        """λ·A(θ−μ), the penalty's gradient by parameter name, in float32 or better; empty before consolidation."""
        reaching = self._reaching(model)
        return pull(*reaching, self.strength) if reaching is not None else {}

    def _actions(self, model: nn.Module, mode: str) -> dict[str, Action]:
        if mode == "gradient":
            return {"pull": partial(self._pull_once, model)}
        return {"proximal": partial(self._step_back, model)} if mode == "proximal" else {}

    def _watch(self, model: nn.Module, optimizer: Optimizer, mode: str) -> Action | None:
        return Watch.of(self, model, optimizer, mode)

    def _pull_once(self, model: nn.Module, step: Step) -> None:
        """Stage "pull" of an optimizer's step."""
        reaching = self._reaching(model)
        if reaching is not None and self.strength > 0:
            add_pull(step, *reaching, self.strength)

    def _step_back(self, model: nn.Module, step: Step) -> None:
        """Stage "proximal" of an optimizer's step."""
        reaching = self._reaching(model)
        if reaching is not None and self.strength > 0:
            step_back(step, *reaching, self.strength)

    def _kept(self, state: Consolidated) -> Consolidated:
        """The state in as many bits, and where, as was asked for."""
        state = stored(state, self.storage)
        return offloaded(state) if self.offload else state

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
        found = self.estimate(model, data, outputs)
        if not isinstance(found, Curvature):
            raise TypeError(f"{type(self).__name__}.estimate returned a {type(found).__name__}, expected a matrix of "
                            "forgetting.curvature, such as Diagonal({name: tensor})")
        return found

    def _remembered(self, model: nn.Module) -> tuple[Consolidated, Parameters] | None:
        """What is remembered, moved to where the model lives, and the weights that it covers."""
        state = self._consolidated
        if state is None:
            return None
        live = covered(model, {name: value.shape for name, value in kept(state.anchor).items()}, "consolidate")
        if not self.offload:
            self._consolidated = state = moved_to(state, live)
        return state, live

    def _reaching(self, model: nn.Module) -> tuple[Consolidated, Parameters] | None:
        """What the penalty covers in this model; a method that also covers what is new adds it here."""
        return self._remembered(model)

    def _learned(self) -> dict[str, Any]:
        state = self._consolidated
        if state is None:
            return {"tasks": 0}
        return {
            "tasks": state.tasks, "constants": dict(state.constants), "curvature": state.curvature.state_dict(),
            "anchor": plain(state.anchor), "rests": {kind: dict(rest) for kind, rest in state.rests.items()},
            "normalize": self.normalize, "divisors": torch.tensor(state.divisors, dtype=torch.float64),
        }

    def _restore(self, learned: Mapping[str, Any]) -> None:
        """Take over a state, cut to what ``parameters=`` covers: the way out when a head was replaced."""
        if not learned["tasks"]:
            self._consolidated = None
            return
        known = learned.get("normalize", "none")  # states of 0.1 say nothing of it
        if known != self.normalize:
            raise ValueError(f"this state was summed with normalize={known!r}, and this {type(self).__name__} has "
                             f"normalize={self.normalize!r}, under which a strength means something else: make one "
                             f"with normalize={known!r}, or consolidate again")
        curvature = restored(learned["curvature"])
        names = select(curvature.names(), self.parameters)
        self._consolidated = self._kept(Consolidated(
            curvature.restricted(names),
            Stored(from_state({name: learned["anchor"][name] for name in names})),
            {name: learned["constants"].get(name, 0.0) for name in names},
            learned["tasks"],
            {kind: {name: rest[name] for name in names} for kind, rest in learned["rests"].items()},
            tuple(learned["divisors"].tolist()) if "divisors" in learned else (1.0,) * learned["tasks"],
        ))
