"""A matrix with the weights it was estimated at, in one file that serves without the source data."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from forgetting.curvature.base import Curvature, restored
from forgetting.curvature.diagonal import Diagonal
from forgetting.curvature.shards import cut, gathered, sharded
from forgetting.parameters import Parameters, named

_KIND, _VERSION = "forgetting.anchored", 1
_TENSOR = ".tensor"  # stands, in the plain part of a file, for a tensor of the other part; no parameter has this name
_SAME = ("labels", "likelihood", "outputs", "tolerance")  # files that merge must agree on these


@dataclass(frozen=True)
class Anchored:
    """What a penalty needs in place of the source data: a matrix F, the weights θ* it belongs to, and its origin.

    ``consolidate(model, curvature=…)`` of a quadratic regularizer takes it, and pulls back to ITS anchor, whatever the
    model's weights are by then. :func:`forgetting.fisher.anchored` and ``forgetting fisher`` make one.

    Args:
        curvature: F, a mean over examples.
        anchor: θ*, name -> tensor, for the names of the matrix.
        labels: whose labels F was estimated with.
        likelihood: what the outputs mean: its ``"name"`` and its settings, plain values.
        outputs: the columns of the logits that F is about; ``None`` for all.
        examples: how many F is a mean over.
        fingerprints: a SHA-256 of the data, one an estimate that was merged into this.
        tolerance: the share of the predictive trace that the estimate was allowed to drop.

    Raises:
        ValueError: where the names or shapes of matrix and anchor differ, or the anchor is not finite.

    Example:
        >>> from forgetting.curvature import Diagonal
        >>> mine = Anchored(Diagonal({"w": torch.tensor([1.0])}), {"w": torch.tensor([2.0])}, examples=10)
        >>> yours = Anchored(Diagonal({"w": torch.tensor([4.0])}), {"w": torch.tensor([2.0])}, examples=20)
        >>> both = mine.merge(yours)
        >>> both.curvature["w"], both.examples
        (tensor([3.]), 30)
    """

    curvature: Curvature
    anchor: Parameters
    labels: str | None = None
    likelihood: Mapping[str, Any] | None = None
    outputs: tuple[int, ...] | None = None
    examples: int | None = None
    fingerprints: tuple[str, ...] = ()
    tolerance: float = 0.0

    def __post_init__(self) -> None:
        covered = self.curvature.diagonal()
        apart = sorted(covered.keys() ^ self.anchor.keys())
        if apart:
            raise ValueError(f"matrix and anchor must hold the same parameters; only one of them holds {apart[:8]}")
        for name, value in covered.items():
            shape = self.anchor[name].shape
            if value.dim() and value.shape != shape:
                raise ValueError(f"the importance of {name!r} has the shape {tuple(value.shape)}, its anchor "
                                 f"{tuple(shape)}")
            if not torch.isfinite(self.anchor[name]).all():
                raise ValueError(f"the anchor of {name!r} holds numbers that are not finite")
        object.__setattr__(self, "anchor", {name: self.anchor[name].detach() for name in covered})

    def __repr__(self) -> str:
        return (f"Anchored({self.curvature!r}, labels={self.labels}, likelihood={self.likelihood}, "
                f"outputs={self.outputs}, examples={self.examples})")

    def merge(self, *others: Anchored) -> Anchored:
        """The estimate over all the data together: the mean of the matrices, weighted by their examples.

        For a diagonal this is the estimate over all of it; for Kronecker factors the nearest Kronecker product, whose
        distance ``curvature.errors`` says. The same data is told by its fingerprint, that is in the same order and as
        a whole: what overlaps in parts, or was shuffled, counts twice.

        Args:
            others: estimates at the SAME anchor over other data.

        Raises:
            TypeError: for what is no estimate with its anchor.
            ValueError: where anchors, labels, likelihoods, outputs or tolerances differ, for batched labels, where the
                same data is in both, or where one does not say how many examples it is a mean over.

        **Cost**: one copy of the matrix.
        """
        merged = self
        for other in others:
            merged = merged._with(other)
        return merged

    def _with(self, other: Anchored) -> Anchored:
        """The merger of two."""
        if not isinstance(other, Anchored):
            raise TypeError(f"merge takes other Anchored estimates (Anchored.load(path)), got a {type(other).__name__}")
        if type(self.curvature) is not type(other.curvature):
            raise ValueError(f"a {type(self.curvature).__name__} and a {type(other.curvature).__name__} do not merge")
        if self.labels == "batched":
            raise ValueError('estimates with labels="batched" are means over batches, and do not merge by examples')
        if not self.examples or not other.examples:
            raise ValueError("merging weighs each matrix by its examples, and one does not say how many it has")
        for field in _SAME:
            mine, theirs = getattr(self, field), getattr(other, field)
            if mine != theirs:
                raise ValueError(f"{field} differ: {_shown(mine)} and {_shown(theirs)}; merge estimates that differ in "
                                 "their data only")
        self._refuse_another_anchor(other)
        twice = sorted(set(self.fingerprints) & set(other.fingerprints))
        if twice:
            raise ValueError(f"both hold the data with the fingerprint {twice[0][:16]}…; it would count twice")
        examples = self.examples + other.examples
        mean = self.curvature.scaled(self.examples / examples).blend(
            other.curvature.to(_devices(self.anchor)).scaled(other.examples / examples), 1.0)
        state = mean.state_dict()
        if "examples" in state:
            mean = restored({**state, "examples": examples})
        return Anchored(mean, self.anchor, self.labels, self.likelihood, self.outputs, examples,
                        (*self.fingerprints, *other.fingerprints))

    def _refuse_another_anchor(self, other: Anchored) -> None:
        """Raise where the two were not estimated at the very same weights."""
        apart = sorted(self.anchor.keys() ^ other.anchor.keys())
        if apart:
            raise ValueError(f"anchors differ: only one of them holds {apart[:8]}")
        for name, value in self.anchor.items():
            theirs = other.anchor[name]
            if value.shape != theirs.shape or not torch.equal(value.double(), theirs.to(value.device).double()):
                raise ValueError(f"anchors differ at {name!r}: a mean is taken of estimates at the very same weights; "
                                 "consolidate them one after the other instead")

    def gathered(self) -> Anchored:
        """The same with whole tensors in place of shards (DTensors): every process of the group calls this.

        **Cost**: one copy of matrix and anchor on every process.
        """
        state = gathered(self.curvature.state_dict())
        return replace(self, curvature=restored(state), anchor=gathered(self.anchor))

    def sharded(self, model: nn.Module) -> Anchored:
        """The same in the shards of a model's weights (FSDP2), from whole tensors, which every process has.

        Args:
            model: a parameter that is not in shards there stays whole.

        Raises:
            TypeError: for a matrix that is no :class:`Diagonal`: the factors of others have no shards.

        **Cost**: a shard of matrix and anchor; nothing is sent.
        """
        if not isinstance(self.curvature, Diagonal):
            raise TypeError(f"a {type(self.curvature).__name__} has no shards; a Diagonal has")
        live = named(model, trainable=False)

        def part(values: Mapping[str, Tensor]) -> Parameters:
            return {name: cut(value, live[name]) if name in live and sharded(live[name]) else value
                    for name, value in values.items()}

        state = self.curvature.state_dict()
        curvature = Diagonal.from_state_dict({**state, "values": part(self.curvature)})
        return replace(self, curvature=curvature, anchor=part(self.anchor))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write one safetensors file, whole or not at all; a folder that is missing is made.

        ``anchor/NAME`` holds θ*, ``curvature/values/NAME`` the importance of a diagonal; the rest is JSON in the file's
        metadata. No pickle.

        Args:
            path: the file; an older one is replaced.

        **Cost**: one copy of matrix and anchor.
        """
        tensors: Parameters = {}
        state = {field.name: getattr(self, field.name) for field in fields(self)}
        plain = _without_tensors({**state, "curvature": self.curvature.state_dict()}, "", tensors)
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f"{target.name}.part")
        about = {"format": f"{_KIND}/{_VERSION}", "about": json.dumps(plain)}
        try:
            save_file(tensors, temporary, metadata=about)
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | os.PathLike[str], device: str = "cpu") -> Anchored:
        """Read what :meth:`save` wrote.

        Args:
            path: the file.
            device: where its tensors go.

        Raises:
            ValueError: where the file is truncated, of another kind, or of another version of the format.
        """
        try:
            with safe_open(path, framework="pt", device=device) as file:
                about = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise ValueError(f"{path} is not a whole safetensors file ({error}); save it again") from error
        _check_format(path, about.get("format"))
        state = _with_tensors(json.loads(about["about"]), tensors)
        state["curvature"] = restored(state["curvature"])
        for name in ("outputs", "fingerprints"):
            state[name] = None if state[name] is None else tuple(state[name])
        return cls(**state)


def _check_format(path: str | os.PathLike[str], found: str | None) -> None:
    """Raise for a file that this version of the library did not write."""
    kind, _, version = (found or "").partition("/")
    if kind != _KIND or not version.isdecimal():
        raise ValueError(f"{path} has the format {found!r}, expected '{_KIND}/{_VERSION}' (Anchored.save, or "
                         "forgetting fisher)")
    if int(version) != _VERSION:
        newer = "a newer forgetting wrote it: upgrade" if int(version) > _VERSION else "an older forgetting wrote it"
        raise ValueError(f"{path} has version {version} of its format, this forgetting reads version {_VERSION}; "
                         f"{newer}, or estimate it again")


def _without_tensors(value: Any, place: str, tensors: Parameters) -> Any:
    """Plain values for JSON; each tensor goes to ``tensors`` under its place and leaves that place behind."""
    if isinstance(value, Tensor):
        if sharded(value):
            raise ValueError(f"{place} lies in shards on several processes: call gathered() on all of them, and save "
                             "its result on one")
        tensors[place] = value.detach().clone(memory_format=torch.contiguous_format)  # the format refuses shared memory
        return {_TENSOR: place}
    if isinstance(value, Mapping):
        return {key: _without_tensors(entry, f"{place}/{key}" if place else key, tensors)
                for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_tensors(entry, f"{place}/{number}", tensors) for number, entry in enumerate(value)]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"{place} is a {type(value).__name__}; a file holds tensors and plain values")


def _with_tensors(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The inverse of :func:`_without_tensors`, but for tuples, which come back as lists."""
    if isinstance(value, dict):
        if value.keys() == {_TENSOR}:
            return tensors[value[_TENSOR]]
        return {key: _with_tensors(entry, tensors) for key, entry in value.items()}
    return [_with_tensors(entry, tensors) for entry in value] if isinstance(value, list) else value


def _devices(anchor: Parameters) -> dict[str, torch.device]:
    return {name: value.device for name, value in anchor.items()}


def _shown(value: Any) -> str:
    return json.dumps(value) if isinstance(value, Mapping) else repr(value)
