"""The verdict in one sentence, by plain rules."""

from __future__ import annotations

from typing import TYPE_CHECKING

from forgetting.protocol.statistics import Interval

if TYPE_CHECKING:
    from forgetting.diagnosis.comparison import Comparison, Recovery

MOST = 0.5  # of the loss: a repair that brings back as much is named as the remedy
SOME = 0.1
HIDDEN = 0.01  # of the examples: negative flips that an unchanged accuracy hides
_REPAIRS = {
    "old norm statistics": ("putting the old norm statistics back", "hold them still (forgetting.still)"),
    "new norm statistics": ("re-estimating the norm statistics on source data",
                            "keep a set of statistics for each task"),
    "head refitted": ("refitting the head", "the features still hold the source, keep the old head in step with them"),
}


def verdict(found: Comparison) -> str:
    """What was lost, and what brings it back or why nothing does."""
    said = _labelled(found) if found.labelled else _agreement(found)
    if found.difference is None or found.difference.high >= 0:
        return f"{said}{_hidden(found)}."
    return f"{said}; {_where(found)}."


def _labelled(found: Comparison) -> str:
    """From what to what the accuracy went."""
    before, after = percent(found.before.accuracy), percent(found.after.accuracy)
    if found.difference is None:
        return f"The source went from {before} to {after}, of a single example, which shows nothing"
    moved = f"({points(found.difference)})"
    if found.difference.high < 0:
        return f"The source fell from {before} to {after} {moved}"
    if found.difference.low > 0:
        return f"The source rose from {before} to {after} {moved}"
    return f"The source went from {before} to {after} {moved}: no change that {found.examples} examples can show"


def _agreement(found: Comparison) -> str:
    """How often the new model answers as the old one, where nobody knows what is right."""
    if found.after.accuracy == 1:
        return f"The new model answers as the old one on all {found.examples} unlabelled examples"
    low, high = percent(found.agreement.low), percent(found.agreement.high)
    return (f"The new model answers as the old one on {percent(found.after.accuracy)} of {found.examples} unlabelled "
            f"examples (95 % interval {low} … {high})")


def _hidden(found: Comparison) -> str:
    """What an unchanged or higher accuracy hides."""
    if not found.labelled or found.difference is None or found.negative_flips.low < HIDDEN:
        return ""
    return f"; yet {percent(found.negative_flips.estimate)} of the examples were right before and are wrong now"


def _where(found: Comparison) -> str:
    """What brings the loss back: the first repair that brings back most of it, else the best."""
    measured = [each for each in found.recoveries if each.share is not None]
    if not measured:
        return "what would bring it back could not be measured"
    best = max(_proven(found), key=lambda each: each.share or 0.0, default=None)
    if best is None or _share(best) < SOME:
        tried = " nor ".join(_REPAIRS[each.name][0] for each in measured)
        lost = "neither" if len(measured) > 1 else "not even"
        return f"{lost} {tried} brings it back: {_rest(found)}"
    if _share(best) < MOST:
        return (f"no more than {percent(_share(best), 0)} of the loss comes back, by {_REPAIRS[best.name][0]}: "
                f"{_rest(found)}")
    first = remedy(found) or best
    repair, advice = _REPAIRS[first.name]
    return f"{percent(_share(first), 0)} of the loss comes back by {repair}: {advice}"


def remedy(found: Comparison) -> Recovery | None:
    """The first repair that brings back most of a loss; None where none does, or nothing was lost."""
    if found.difference is None or found.difference.high >= 0:
        return None
    return next((each for each in _proven(found) if _share(each) >= MOST), None)


def _proven(found: Comparison) -> list[Recovery]:
    """The repairs that certainly bring something back."""
    return [each for each in found.recoveries
            if each.share is not None and each.gain is not None and each.gain.low > 0]


def _rest(found: Comparison) -> str:
    """Where what does not come back was lost, if a refitted head could have shown it."""
    weak = next((each.reference for each in found.recoveries if each.reference is not None
                 and each.reference - _start(found, each) < MOST * (found.before.accuracy - _start(found, each))), None)
    if weak is None:
        return _features(found)
    return (f"whether the features changed cannot be told, as the old model's own head, refitted on so few examples, "
            f"reaches only {percent(weak)}: refit on more")


def _features(found: Comparison) -> str:
    """Where the weights that mattered moved most, and what to do."""
    largest = max(found.modules, key=lambda each: each.fisher, default=None)
    whole = found.fisher
    if largest is None or not whole > 0:
        return "the features themselves changed, so protect the weights or replay source data"
    return (f"the features themselves changed ({percent(largest.fisher / whole, 0)} of the drift in the Fisher norm "
            f"lies in {largest.name or 'the network itself'}), so protect the weights or replay source data")


def _start(found: Comparison, each: Recovery) -> float:
    """The accuracy that a repair's gain counts from."""
    if each.accuracy is None or each.gain is None:
        return found.after.accuracy
    return each.accuracy - each.gain.estimate


def _share(each: Recovery) -> float:
    return each.share or 0.0


def percent(value: float, digits: int = 1) -> str:
    """``0.912`` as ``91.2 %``."""
    return f"{100 * value:.{digits}f} %".replace("-", "−")


def change(found: Interval) -> str:
    """A difference of accuracies in points, with the ends of its interval: ``−48.2 (−50.1 … −46.0)``."""
    estimate, low, high = (f"{100 * value:+.1f}".replace("-", "−") for value in found[:3])
    return f"{estimate} ({low} … {high})"


def points(found: Interval) -> str:
    """The same in words."""
    estimate, _, ends = change(found).partition(" ")
    return f"{estimate} points, {100 * found.confidence:.0f} % interval {ends[1:-1]}"
