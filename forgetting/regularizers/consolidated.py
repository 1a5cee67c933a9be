"""What a quadratic penalty remembers of all tasks, as one frozen value, and how one more task is added to it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn

from forgetting.curvature import Curvature, Diagonal, Identity
from forgetting.curvature.shards import cut, sharded
from forgetting.curvature.stored import Kept, Stored, kept, moved
from forgetting.parameters import Parameters, named


@dataclass(frozen=True)
class Consolidated:
    """What a quadratic penalty remembers of all tasks so far: Σ A(θ−μ)² + c.

    Args:
        curvature: A, the blended matrix.
        anchor: μ, the weights that it pulls back to, in float32 or better where they are not stored in fewer bits.
        constants: c by parameter name: what separate tasks disagree about at μ.
        tasks: how many were consolidated.
        rests: ``"curvature"`` and ``"anchor"`` -> what float32 could not hold of a merged A and μ. Only the next merge
            reads it; without it, rounding errors of early anchors that disagree would outweigh a small μ.
        divisors: what the matrix of each task was divided by before it was added; 1 where it was taken as it is.
            strength ÷ divisor is the strength that would do the same without ``normalize=``.
    """

    curvature: Curvature
    anchor: Mapping[str, Tensor]
    constants: dict[str, float]
    tasks: int
    rests: dict[str, Parameters] = field(default_factory=dict)
    divisors: tuple[float, ...] = ()

    @property
    def constant(self) -> float:
        """c = Σ over the parameters."""
        return math.fsum(self.constants.values())

    @cached_property
    def peaks(self) -> dict[tuple[str, ...], float]:
        """The largest eigenvalue of each block of A, which is looked for once."""
        return self.curvature.peaks()


def covered(model: nn.Module, shapes: Mapping[str, torch.Size | None], since: str) -> Parameters:
    """The model's parameters of these names, or an error that says which one is gone and what to do."""
    everything = named(model, trainable=False)
    way = ("leave it out with parameters= (patterns of what stays, such as parameters='backbone.*') and consolidate, "
           "or load the state, again")
    for name, shape in shapes.items():
        if name not in everything:
            module, _, kind = name.rpartition(".")
            if f"{module}.base_layer.{kind}" in everything:
                raise ValueError(f"{since} covers the parameter {name!r}, around which stands an adapter of peft: it "
                                 "no longer learns, its adapter does. Hold what adapters make of it by "
                                 f"forgetting.adapters.ProductEWC, and the rest by this; {way}")
            if f"{module}.modules_to_save.default.{kind}" in everything:
                raise ValueError(f"{since} covers the parameter {name!r}, of which peft trains a copy "
                                 f"(modules_to_save); consolidate the model that peft made; {way}")
            raise ValueError(f"{since} covers the parameter {name!r}, which the model does not have (removed, renamed "
                             f"or replaced?); {way}")
        if shape is not None and everything[name].shape != shape:
            raise ValueError(f"{since} covers the parameter {name!r} with the shape {tuple(shape)}, and the model has "
                             f"it with {tuple(everything[name].shape)}; {way}")
    return {name: everything[name] for name in shapes}


def anchored_at(live: Parameters, given: Mapping[str, Tensor]) -> Parameters:
    """What to pull back to: the weights of a file where it has them, on the devices of the live ones; else those."""
    return {name: given[name].to(weight.device, torch.promote_types(weight.dtype, torch.float32))
            if name in given else weight for name, weight in live.items()}


def moved_to(state: Consolidated, live: Parameters) -> Consolidated:
    """The state on the devices, and in the shards (FSDP2), of the weights; itself, where it is there already."""
    places = {name: parameter.device for name, parameter in live.items()}
    anchors = kept(state.anchor)
    apart = [name for name, weight in live.items() if sharded(weight) != sharded(anchors[name])]
    if apart:
        return _in_shards(state, live, apart)
    if all(anchors[name].device == place for name, place in places.items()):
        return state
    anchor = {name: moved(anchors[name], partial(Tensor.to, device=place)) for name, place in places.items()}
    return replace(state, curvature=state.curvature.to(places), anchor=Stored(anchor))


def _in_shards(state: Consolidated, live: Parameters, apart: list[str]) -> Consolidated:
    """The state in the shards of the weights, from whole tensors, which every process has; nothing is sent.

    Raises:
        TypeError: for what has no shards: factors, and what is compressed.
        ValueError: where it is the weights that are whole.
    """
    anchors, curvature, kinds = kept(state.anchor), state.curvature, (Diagonal, Identity)
    whole = next((name for name in apart if not sharded(live[name])), None)
    if whole is not None:
        raise ValueError(f"the anchor of {whole!r} lies in shards (DTensor), and the weight is whole just now: FSDP2 "
                         "holds its outermost module whole between forward and backward. Leave the penalty out of the "
                         "loss and attach it with mode='gradient', which pulls at the step, when shards are back")
    if type(curvature) not in kinds or not all(isinstance(anchors[name], Tensor) for name in apart):
        raise TypeError(f"the weights lie in shards (DTensor, such as {apart[0]!r}), and a {type(curvature).__name__} "
                        "has none: use a diagonal method (EWC, MAS, L2SP) with storage='float32'")

    def part(values: Mapping[str, Kept]) -> dict[str, Any]:
        return {name: cut(value.to(live[name].device), live[name])
                if isinstance(value, Tensor) and name in live and sharded(live[name]) and not sharded(value) else value
                for name, value in values.items()}

    if isinstance(curvature, Diagonal):
        curvature = Diagonal(part(curvature.elementwise()), **curvature.about())
    rests = {kind: part(rest) for kind, rest in state.rests.items()}
    return moved_to(replace(state, curvature=curvature, anchor=Stored(part(anchors)), rests=rests), live)


def blend(old: Consolidated | None, new: Curvature, live: Parameters, decay: float) -> Consolidated:
    """``anchors="latest"``: decay·A + F around the present weights."""
    curvature = at_least_float32(new)
    if old is not None:
        curvature = old.curvature.blend(curvature, decay)
    anchor = {name: _copy(live[name], torch.promote_types(live[name].dtype, torch.float32))
              for name in curvature.names()}
    return Consolidated(curvature, anchor, {}, (old.tasks if old else 0) + 1)


def merge(old: Consolidated | None, new: Curvature, live: Parameters, decay: float) -> Consolidated:
    """``anchors="separate"``: one matrix, anchor and number whose penalty is the sum of the tasks' penalties."""
    if not isinstance(new, Diagonal):
        raise TypeError(f"anchors='separate' merges diagonals; a {type(new).__name__} needs anchors='latest'")
    before_all = old.curvature if old is not None else Diagonal({})
    if not isinstance(before_all, Diagonal):
        raise TypeError(f"anchors='separate' cannot continue from a {type(before_all).__name__}")
    values, anchor = dict(before_all), dict(old.anchor) if old is not None else {}
    constants = dict(old.constants) if old is not None else {}
    rests: dict[str, Parameters] = {"curvature": {}, "anchor": {}}
    known = old.rests if old is not None and old.rests else rests
    for name in dict.fromkeys((*values, *new)):
        dtype = torch.promote_types(live[name].dtype, torch.float32)
        present = live[name].detach().double()
        added = new[name].to(present) if name in new else torch.zeros_like(present)
        before = _whole(values, known["curvature"], name, torch.zeros_like(present)) * decay
        gap = present - _whole(anchor, known["anchor"], name, present)
        total = before + added
        share = torch.where(total > 0, added / total, 1.0)
        apart = torch.where(total > 0, before * share * gap.square(), 0.0)
        constants[name] = decay * constants.get(name, 0.0) + float(apart.sum())
        middle = torch.where(share < 1, present - (1 - share) * gap, present)
        values[name], rests["curvature"][name] = _halves(total, dtype)
        anchor[name], rests["anchor"][name] = _halves(middle, dtype)
    curvature = Diagonal(values, examples=new.examples, labels=new.labels, routes=new.routes)
    return Consolidated(curvature, anchor, constants, (old.tasks if old else 0) + 1, rests)


def _whole(halves: Parameters, rests: Parameters, name: str, otherwise: Tensor) -> Tensor:
    """A stored tensor with its rest, in float64; ``otherwise`` where the name is new."""
    if name not in halves:
        return otherwise
    whole = halves[name].to(otherwise)
    return whole + rests[name].to(otherwise) if name in rests else whole


def _halves(value: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """A float64 tensor in another precision (a copy, never an alias), and what that leaves over in float32."""
    rounded = value.to(dtype, copy=True)
    return rounded, (value - rounded).float()


def _copy(parameter: Tensor, dtype: torch.dtype) -> Tensor:
    """A detached copy in another precision that never shares memory with the live weight (fault F11)."""
    return parameter.detach().to(dtype, copy=True)


def at_least_float32(curvature: Curvature) -> Curvature:
    """The matrix itself, or its copy in float32 where it came with fewer bits: sums of bfloat16 lose what is added."""
    if not isinstance(curvature, Diagonal) or all(torch.finfo(value.dtype).bits >= 32 for value in curvature.values()):
        return curvature
    values = {name: value.to(torch.promote_types(value.dtype, torch.float32)) for name, value in curvature.items()}
    return Diagonal(values, examples=curvature.examples, labels=curvature.labels, routes=curvature.routes)
