"""What a comparison found, as plain data."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from forgetting.diagnosis.verdict import remedy, verdict
from forgetting.protocol.statistics import Interval

FORMAT = "forgetting.comparison/1"


@dataclass(frozen=True)
class Bin:
    """The examples of one bin of the reliability diagram.

    Args:
        examples: how many.
        confidence: their mean largest probability.
        accuracy: the share that is right.

    Example:
        >>> Bin(20, 0.95, 0.8).examples
        20
    """

    examples: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class Figures:
    """One model's figures on the source data.

    Args:
        accuracy: share of right answers; without labels, of answers that are the old model's.
        confidence: the mean over examples of the largest predicted probability.
        calibration_error: the expected calibration error, in [0, 1]; None without labels.
        negative_log_likelihood: the mean over examples, in nats; None without labels.
        reliability: the bins of the calibration error that are not empty; none without labels.

    Example:
        >>> Figures(0.91, 0.93, 0.02, 0.31).accuracy
        0.91
    """

    accuracy: float
    confidence: float
    calibration_error: float | None
    negative_log_likelihood: float | None
    reliability: tuple[Bin, ...] = ()


@dataclass(frozen=True)
class ClassDrop:
    """What became of one class.

    Args:
        label: its number among all outputs; without labels, the old model's answer.
        examples: how many there are of it.
        before, after: accuracy on them.

    Example:
        >>> ClassDrop(label=3, examples=40, before=0.75, after=0.25).drop
        0.5
    """

    label: int
    examples: int
    before: float
    after: float

    @property
    def drop(self) -> float:
        """Accuracy lost on this class."""
        return self.before - self.after


@dataclass(frozen=True)
class ParameterDrift:
    """How far one parameter moved.

    Args:
        name: of the parameter.
        weights: how many numbers it holds.
        relative: ‖θ_after − θ_before‖ / ‖θ_before‖; ‖θ_after‖ where θ_before = 0.
        fisher: Σ F (θ_after − θ_before)² over its weights.

    Example:
        >>> ParameterDrift("head.weight", 1280, relative=0.2, fisher=0.7).fisher
        0.7
    """

    name: str
    weights: int
    relative: float
    fisher: float


@dataclass(frozen=True)
class ModuleDrift:
    """How far one module moved, in its own parameters and in what it gives out.

    Args:
        name: of the module; empty for the network itself.
        kind: its class.
        weights: how many numbers its own parameters hold.
        relative: as for a parameter, over all of its own.
        fisher: Σ F (θ_after − θ_before)² over all of its own.
        cka: linear CKA of its outputs before and after, 1 where they are the same up to rotation and scale; None where
            it gives no tensor with a row an example, or too few examples were seen.

    Example:
        >>> ModuleDrift("head", "Linear", 1290, relative=0.2, fisher=0.7, cka=0.9).kind
        'Linear'
    """

    name: str
    kind: str
    weights: int
    relative: float
    fisher: float
    cka: float | None


@dataclass(frozen=True)
class Recovery:
    """What comes back by one repair that leaves the new weights below the head alone.

    Args:
        name: ``"old norm statistics"``, ``"new norm statistics"`` or ``"head refitted"``.
        accuracy: after the repair, on the same examples; None where it was not measured.
        gain: accuracy after the repair less without it, with its paired interval. A refitted head answers among the
            source's classes alone, so its gain counts from the most frequent label's share where that is higher: as
            much is right without any feature.
        share: of the loss, counted from there, that comes back: 1 for all; None where nothing was lost.
        reference: the same repair's accuracy on the OLD model, where that differs from leaving it alone.
        note: why it was not measured, or what to know of the figure.

    Example:
        >>> Recovery("head refitted", None, None, None, note="no linear layer gives the logits").accuracy is None
        True
    """

    name: str
    accuracy: float | None
    gain: Interval | None
    share: float | None
    reference: float | None = None
    note: str | None = None


@dataclass(frozen=True)
class Comparison:
    """What a fine-tune lost, as :func:`~forgetting.diagnosis.compare` found it.

    Args:
        examples: of the source data.
        labelled: whether they had labels. Without them the old model's answers stand for labels: its accuracy is 1,
            the new one's is their agreement.
        outputs: the columns that were looked at; None for all.
        before, after: each model's figures.
        difference: accuracy after less before, with its paired interval; None for a single example.
        agreement: share of examples on which both give the same answer.
        negative_flips: share of examples that were right before and are wrong after.
        positive_flips: share that were wrong before and are right after; None without labels.
        classes: every class that occurs, the most forgotten first.
        labels: whose the Fisher diagonal was taken with, ``"exact"`` or ``"sampled"`` ones.
        parameters, modules: drift, in the network's order.
        recoveries: what comes back by each repair.

    Example:
        >>> from torch import nn
        >>> from forgetting.diagnosis import compare
        >>> model = nn.Linear(2, 2)
        >>> compare(model, model, [(model.weight.detach(), model.weight.new_tensor([0, 1]).long())]).examples
        2
    """

    examples: int
    labelled: bool
    outputs: tuple[int, ...] | None
    before: Figures
    after: Figures
    difference: Interval | None
    agreement: Interval
    negative_flips: Interval
    positive_flips: Interval | None
    classes: tuple[ClassDrop, ...]
    labels: str
    parameters: tuple[ParameterDrift, ...]
    modules: tuple[ModuleDrift, ...]
    recoveries: tuple[Recovery, ...]

    @property
    def fisher(self) -> float:
        """Σ F (θ_after − θ_before)² over all weights; half of it would be, to second order, how far the answers moved
        (the mean Kullback–Leibler divergence on the source data) if no two weights acted together: F is a diagonal.
        """
        return sum(parameter.fisher for parameter in self.parameters)

    @property
    def verdict(self) -> str:
        """What was lost and what brings it back, in one sentence."""
        return verdict(self)

    @property
    def remedy(self) -> str | None:
        """The repair that the verdict names, which brings back at least half of the loss; None where there is none."""
        found = remedy(self)
        return None if found is None else found.name

    def as_data(self) -> dict[str, Any]:
        """Dictionaries, lists, numbers and texts only, as JSON takes them."""
        drops = {"classes": [{**_plain(each), "drop": each.drop} for each in self.classes]}
        named = {"verdict": self.verdict, "remedy": self.remedy}
        return {"format": FORMAT, **named, **_plain(self), **drops, "fisher": self.fisher}


def _plain(value: Any) -> Any:
    """The same without classes."""
    if isinstance(value, Interval):
        return {name: _plain(part) for name, part in value._asdict().items()}
    if dataclasses.is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, tuple):
        return [_plain(part) for part in value]
    return value
