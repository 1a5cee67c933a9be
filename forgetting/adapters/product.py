"""EWC for low-rank adapters: what is held is the weight that they make, not their factors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from forgetting.adapters.pairs import adapted, base_name, pairs
from forgetting.adapters.tiles import half_square
from forgetting.curvature import Anchored, Curvature, Diagonal, restored
from forgetting.parameters import Parameters, Selection, select, unwrapped
from forgetting.regularizers import EWC, Regularizer
from forgetting.regularizers.normalized import announce, divisor_of, warn_where_inert

__all__ = ["ProductEWC"]


class ProductEWC(Regularizer):
    r"""Holds each weight that adapters change as hard as the source task's likelihood bends along it.

    .. math:: \tfrac12\,\lambda \sum_{W} \sum_{ij} F_{ij}\,\big(s\,(BA)_{ij}\big)^2

    with F the Fisher diagonal of the base model at its weights, and s·BA the change that an adapter makes to a weight,
    which is how far it will be moved when the adapter is merged. It is EWC's penalty for the merged model. (EWC on the
    factors is another: it holds A and B each on its own, and at B = 0 the loss does not bend along A at all.)

    ``consolidate(model, data)`` first, on the model without adapters; then add them
    (:func:`~forgetting.adapters.lora`, or peft), train with ``penalty(model)``, merge them, and consolidate again after
    each task. Weights that learn without an adapter are not covered: give a head one too
    (``modules="*"``), or hold it by an :class:`~forgetting.EWC` with ``parameters=`` beside this.

    Args:
        strength: λ ≥ 0, as for :class:`~forgetting.EWC`: F is a mean over examples.
        labels, likelihood, forward, examples, seed: of the estimate, as for :class:`~forgetting.EWC`.
        decay: γ in [0, 1], the weight of the old matrix when a task is added; the change is counted from the weights
            of the last ``consolidate``.
        normalize: ``"none"``, ``"mean"`` or ``"trace"``: what each task's matrix is divided by, as for
            :class:`~forgetting.EWC`.
        parameters: patterns over the names that weights have without adapters: which of them are held. ``None`` for all
            with two dimensions or more; an adapter on a weight that F does not cover is then an error.

    Raises:
        ValueError: from ``consolidate``, while adapters are in the model (but for a matrix that is given), for a matrix
            that belongs to other weights, or as :class:`~forgetting.EWC`; from ``penalty``, for a model without
            adapters, adapters on weights that F does not cover, and those whose change is not one product (DoRA,
            several at one place, embeddings, grouped convolutions).
        RuntimeError: where the gradient is differentiated again: it is known once only.

    **Cost**: memory of one copy of the covered weights (F; the anchor needs none) and, at a step, of two blocks of rows
    of one product (1 MB each on a CPU, up to 64 MB on a GPU), whatever the size of the weights. Time of three products
    of B, A and a matrix of the weight's size a step, as much as about 1.5·r more rows (examples × positions) in a batch
    take, and one pass over F.

    **Reference**: Zheng et al., "Revisiting Weight Regularization for Low-Rank Continual Learning" (EWC-LoRA), 2026
    (arXiv 2602.17559); Kirkpatrick et al. 2017 (arXiv 1612.00796), equation 3.
    **Differs**: F is estimated on the merged model, as a mean over examples and exact over labels unless told
    otherwise.

    Example:
        >>> from forgetting.adapters import lora
        >>> model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2))
        >>> ewc = ProductEWC(strength=10.0)
        >>> ewc.consolidate(model, curvature=Diagonal({"0.weight": torch.tensor([[1.0, 0.0], [0.0, 0.0]])}))
        >>> with lora(model, rank=1):  # doctest: +SKIP
        ...     _ = nn.init.ones_(model[0].lora_A["default"].weight), nn.init.ones_(model[0].lora_B["default"].weight)
        ...     ewc.penalty(model).item()
        5.0
    """

    properties: ClassVar[frozenset[str]] = frozenset({"anchored", "linear"})

    def __init__(
        self,
        strength: float,
        *,
        labels: str = "exact",
        decay: float = 1.0,
        parameters: Selection = None,
        likelihood: Any = None,
        forward: Callable[..., Any] | None = None,
        examples: int | None = None,
        seed: int = 0,
        normalize: str = "none",
    ) -> None:
        super().__init__(strength)
        self.labels, self.decay, self.parameters, self.normalize = labels, decay, parameters, normalize
        self.likelihood, self.forward, self.examples, self.seed = likelihood, forward, examples, seed
        self._estimator()
        self._curvature: Diagonal | None = None
        self._divisors: list[float] = []

    @property
    def divisors(self) -> tuple[float, ...]:
        """What each task's matrix was divided by before it was added; 1 where it was taken as it is."""
        return tuple(self._divisors)

    @property
    def curvature(self) -> Diagonal | None:
        """F of all tasks so far, by the names that weights have without adapters; ``None`` before ``consolidate``."""
        return self._curvature

    def consolidate(
        self, model: nn.Module, data: Any = None, *, outputs: Any = None,
        curvature: Curvature | Anchored | None = None,
    ) -> None:
        """Add F, estimated from ``data`` or given as ``curvature``, at the model's present weights.

        Args:
            model: without adapters; left as found.
            data: an iterable of batches of the task that it has just learned.
            outputs: the columns of the logits that belong to the task.
            curvature: F, computed earlier: a diagonal, or one with its anchor, which must be the model's weights.

        Raises:
            ValueError: for both or neither of ``data`` and ``curvature``, and as the class says. What was remembered is
                kept then.
        """
        if (data is None) == (curvature is None):
            raise ValueError("consolidate takes data= (batches of the task just learned) or curvature= (a matrix "
                             f"computed earlier), got {'neither' if data is None else 'both'}")
        plain = unwrapped(model)
        base: Parameters = {base_name(name): weight for name, weight in plain.named_parameters() if weight.dim() > 1}
        if curvature is None:
            present = next(adapted(plain), None)
            if present is not None:
                raise ValueError(f"the model has adapters, the first at {present[0]!r}: F belongs to the model without "
                                 "them; merge them (remove their handle) and consolidate then, or give curvature=")
            found: Any = self._estimator(base).estimate(model, data, outputs)
        else:
            found = _given(curvature, base)
        held = self._held({base_name(name): value for name, value in found.items()}, base)
        warn_where_inert(type(self).__name__, held, self.normalize)
        divisor = divisor_of(held, base, self.normalize)
        added = Diagonal(held, examples=found.examples, labels=found.labels).scaled(1 / divisor)
        self._curvature = added if self._curvature is None else self._curvature.blend(added, self.decay)
        self._divisors.append(divisor)
        announce(type(self).__name__, len(self._divisors), self.normalize, divisor, self.strength)

    def penalty(self, model: nn.Module, inputs: Any = None, outputs: Any = None) -> Tensor:
        """½·λ·Σ F·(s·BA)² over the adapters in the model; a 0 without a graph before consolidation and at strength 0.

        Raises:
            ValueError: where the model has no adapters, or has some that F does not cover.
        """
        if self._curvature is None or self.strength == 0:
            return self.zero(model)
        found = pairs(model)
        if not found:
            raise ValueError("the model has no adapters whose product could be held: add them "
                             "(forgetting.adapters.lora) after consolidate, or use EWC, which holds weights")
        missing = [name for name in found if name not in self._curvature]
        if missing and (self.parameters is None or len(missing) == len(found)):
            raise ValueError(f"adapters change {', '.join(missing[:5])}, which F does not cover (frozen when it was "
                             "estimated, or left out); consolidate a model in which they require a gradient, or say "
                             "with parameters= what is to be held")
        held = [(name, pair) for name, pair in found.items() if name in self._curvature]
        for name, pair in held:
            if self._curvature[name].shape != pair.shape:
                raise ValueError(f"F covers {name!r} with the shape {tuple(self._curvature[name].shape)}, and its "
                                 f"adapter changes one of {pair.shape}; consolidate again")
        curvature = self._curvature = _moved(self._curvature, {name: pair.up.device for name, pair in held})
        terms = [half_square(pair, curvature[name]) for name, pair in held]
        total = torch.stack([term.to(terms[0].device) for term in terms]).sum()
        return (self.strength * total).to(self.zero(model).dtype)

    def _estimator(self, base: Parameters | None = None) -> EWC:
        """What estimates F, of the covered weights; each task draws its labels from a stream of its own."""
        seed = self.seed + (len(self._divisors) if base is not None else 0)
        names = set(base or {}) if self.parameters is None or base is None else set(select(base, self.parameters))
        return EWC(1.0, labels=self.labels, decay=self.decay, parameters=names.__contains__, likelihood=self.likelihood,
                   forward=self.forward, examples=self.examples, seed=seed, normalize=self.normalize)

    def _held(self, found: Mapping[str, Tensor], base: Parameters) -> Parameters:
        """What is kept of a matrix: weights with two dimensions or more, of those that were asked for."""
        for name, value in found.items():
            if value.dim() > 1 and (name not in base or base[name].shape != value.shape):
                other = f"has it with {tuple(base[name].shape)}" if name in base else "does not have"
                raise ValueError(f"the matrix covers {name!r} with the shape {tuple(value.shape)}, which the model "
                                 f"{other}; cut it by restricted(names), or consolidate with data=")
        names = select([name for name, value in found.items() if value.dim() > 1], self.parameters)
        if not names:
            raise ValueError("the matrix covers no weight with two dimensions or more, which an adapter could change")
        return {name: found[name].to(torch.promote_types(found[name].dtype, torch.float32)) for name in names}

    def _learned(self) -> dict[str, Any]:
        if self._curvature is None:
            return {"divisors": []}
        return {"divisors": list(self._divisors), "curvature": self._curvature.state_dict()}

    def _restore(self, learned: Mapping[str, Any]) -> None:
        self._divisors = list(learned["divisors"])
        curvature = restored(learned["curvature"]) if self._divisors else None
        assert curvature is None or isinstance(curvature, Diagonal)
        self._curvature = curvature


def _moved(curvature: Diagonal, devices: Mapping[str, torch.device]) -> Diagonal:
    """The matrix with some of its entries on other devices; itself, where they are there already."""
    if all(curvature[name].device == device for name, device in devices.items()):
        return curvature
    return curvature.to({name: devices.get(name, value.device) for name, value in curvature.items()})


def _given(curvature: Curvature | Anchored, base: Parameters) -> Diagonal:
    """A matrix that the caller brought, whose anchor, if it has one, is where the model is."""
    anchor = curvature.anchor if isinstance(curvature, Anchored) else {}
    matrix = curvature.curvature if isinstance(curvature, Anchored) else curvature
    if not isinstance(matrix, Diagonal):
        raise TypeError(f"curvature= takes a Diagonal, perhaps with its anchor, not a {type(matrix).__name__}")
    for name, value in anchor.items():
        weight = base.get(base_name(name))
        if weight is not None and not torch.equal(value.to(weight), weight):
            raise ValueError(f"the matrix was estimated at other weights than the model's, at {name!r}: the change "
                             "that adapters make is counted from the model's; load the anchor into it, or use EWC")
    return matrix
