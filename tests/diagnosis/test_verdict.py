"""The sentence that a comparison ends with: every branch, from figures that are made up."""

import dataclasses
import io

import pytest
from rich.console import Console

from forgetting.diagnosis import ClassDrop, Comparison, Figures, ModuleDrift, ParameterDrift, Recovery, table
from forgetting.protocol.statistics import Interval

OLD, NEW, HEAD = "old norm statistics", "new norm statistics", "head refitted"


def interval(estimate, low, high):
    return Interval(estimate, low, high, 0.95)


def repair(name, share, proven=True):
    """What brings back a share of the loss of 48.2 points."""
    gain = 0.482 * share
    return Recovery(name, 0.43 + gain, interval(gain, 0.9 * gain if proven else -0.1, 1.1 * gain), share)


def made(recoveries=(), **changes):
    """A fall from 91.2 to 43.0 %."""
    drifted = ParameterDrift("1.weight", 9, 0.1, 1.0), ParameterDrift("2.weight", 9, 0.2, 3.0)
    layers = ModuleDrift("1", "Linear", 9, 0.1, 1.0, None), ModuleDrift("2", "Linear", 9, 0.2, 3.0, 0.5)
    found = Comparison(500, True, None, Figures(0.912, 0.9, 0.02, 0.3), Figures(0.43, 0.7, 0.3, 2.0),
                       interval(-0.482, -0.501, -0.46), interval(0.45, 0.4, 0.5), interval(0.5, 0.45, 0.55),
                       interval(0.018, 0.01, 0.03), (ClassDrop(3, 50, 0.9, 0.1),), "exact", drifted, layers,
                       tuple(recoveries))
    return dataclasses.replace(found, **changes)


FELL = "The source fell from 91.2 % to 43.0 % (−48.2 points, 95 % interval −50.1 … −46.0); "
FEATURES = ("the features themselves changed (75 % of the drift in the Fisher norm lies in 2), so protect the weights "
            "or replay source data.")


@pytest.mark.parametrize(("recoveries", "ending"), [
    ([repair(OLD, 0.8), repair(NEW, 0.9), repair(HEAD, 0.95)],
     "80 % of the loss comes back by putting the old norm statistics back: hold them still (forgetting.still)."),
    ([repair(OLD, 0.4), repair(NEW, 0.6), repair(HEAD, 0.9)],
     ("60 % of the loss comes back by re-estimating the norm statistics on source data: keep a set of statistics for "
      "each task.")),
    ([repair(OLD, 0.4), repair(HEAD, 0.9)],
     ("90 % of the loss comes back by refitting the head: the features still hold the source, keep the old head in "
      "step with them.")),
    ([repair(OLD, 0.2), repair(HEAD, 0.31)],
     f"no more than 31 % of the loss comes back, by refitting the head: {FEATURES}"),
    ([repair(OLD, -0.1), repair(NEW, 0.05), repair(HEAD, 0.8, proven=False)],
     ("neither putting the old norm statistics back nor re-estimating the norm statistics on source data nor refitting "
      f"the head brings it back: {FEATURES}")),
    ([Recovery(OLD, None, None, None), repair(HEAD, 0.05)],
     f"not even refitting the head brings it back: {FEATURES}"),
    ([Recovery(OLD, None, None, None), Recovery(HEAD, None, None, None)],
     "what would bring it back could not be measured."),
])
def test_what_brings_the_loss_back(recoveries, ending):
    assert made(recoveries).verdict == FELL + ending


def test_a_refit_that_fails_on_the_old_model_too_tells_nothing():
    weak = dataclasses.replace(repair(HEAD, 0.05), reference=0.45)
    assert made([weak]).verdict.endswith(
        "not even refitting the head brings it back: whether the features changed cannot be told, as the old model's "
        "own head, refitted on so few examples, reaches only 45.0 %: refit on more.")
    assert made([dataclasses.replace(weak, reference=0.9)]).verdict.endswith(FEATURES)


def test_features_that_changed_without_a_drift_are_not_placed():
    still = ParameterDrift("1.weight", 9, 0.0, 0.0)
    found = made([repair(HEAD, 0.05)], parameters=(still,))
    assert found.verdict.endswith("brings it back: the features themselves changed, so protect the weights or replay "
                                  "source data.")


@pytest.mark.parametrize(("changes", "said"), [
    ({"difference": interval(0.02, 0.01, 0.03), "negative_flips": interval(0.002, 0.001, 0.009)},
     "The source rose from 91.2 % to 43.0 % (+2.0 points, 95 % interval +1.0 … +3.0)."),
    ({"difference": interval(-0.002, -0.01, 0.006), "negative_flips": interval(0.002, 0.001, 0.009)},
     ("The source went from 91.2 % to 43.0 % (−0.2 points, 95 % interval −1.0 … +0.6): no change that 500 examples can "
      "show.")),
    ({"difference": interval(-0.002, -0.01, 0.006), "negative_flips": interval(0.031, 0.02, 0.05)},
     ("The source went from 91.2 % to 43.0 % (−0.2 points, 95 % interval −1.0 … +0.6): no change that 500 examples can "
      "show; yet 3.1 % of the examples were right before and are wrong now.")),
    ({"difference": None}, "The source went from 91.2 % to 43.0 %, of a single example, which shows nothing."),
])
def test_what_became_of_the_source(changes, said):
    assert made([repair(OLD, 0.8)], **changes).verdict == said


def test_without_labels_it_speaks_of_agreement():
    found = made([repair(OLD, 0.8)], labelled=False, positive_flips=None)
    assert found.verdict.startswith("The new model answers as the old one on 43.0 % of 500 unlabelled examples (95 % "
                                    "interval 40.0 % … 50.0 %); 80 % of the loss comes back by putting")
    same = dataclasses.replace(found, after=Figures(1.0, 0.9, None, None), difference=interval(0.0, 0.0, 0.0))
    assert same.verdict == "The new model answers as the old one on all 500 unlabelled examples."


def shown(found):
    console = Console(width=130, file=io.StringIO())
    console.print(table(found))
    return console.file.getvalue()


def test_the_table_shows_every_figure():
    text = shown(made([repair(OLD, 0.8), Recovery(NEW, None, None, None, note="no reason"),
                       dataclasses.replace(repair(HEAD, 0.5), reference=0.9)]))
    for words in ("80 % of the loss", "91.2 %", "43.0 %", "2.000", "30.0 %",
                  "−48.2 points, 95 % interval −50.1 … −46.0",
                  "Same answer: 45.0 % (95 % interval 40.0 %", "Right before, wrong after: 50.0 %", "80.0 %",
                  "new norm statistics: no reason", "+38.6 (+34.7 … +42.4)", "75.0 %", "0.500",
                  "Σ F Δ² over all weights: 4, with exact labels"):
        assert words in text
    assert text.index("\n 2 ") < text.index("\n 1 ")
    bare = shown(made([], labelled=False, positive_flips=None, before=Figures(1.0, 0.9, None, None)))
    assert "the old model's answer" in bare
    assert "Right before" not in bare
