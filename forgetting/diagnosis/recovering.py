"""How much of a loss comes back: old norm statistics, new ones, a head fitted anew."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor, nn

from forgetting.diagnosis.answers import Reader, Stream
from forgetting.diagnosis.comparison import Recovery
from forgetting.diagnosis.figures import difference
from forgetting.diagnosis.observing import AFTER, BEFORE, Observed, exchanged, observe
from forgetting.diagnosis.reestimating import reestimated
from forgetting.diagnosis.refit import crossed, fit
from forgetting.protocol.measure import running_statistics

OLD, NEW, HEAD = "old norm statistics", "new norm statistics", "head refitted"


class Repaired(NamedTuple):
    """What a repair answers.

    Args:
        answers: of the new model, repaired; None where it could not be.
        reference: the old model's with the same repair; None where there is none.
        note: why not, or what to know.
    """

    answers: Tensor | None
    reference: Tensor | None = None
    note: str | None = None


def other_statistics(before: nn.Module, after: nn.Module, data: Stream, reader: Reader) -> dict[str, dict[str, Tensor]]:
    """The old model's norm statistics, and the new model's own ones measured anew; nothing where it keeps none."""
    own = running_statistics(after)
    if not own:
        return {}
    found = {OLD: running_statistics(before)}
    with exchanged(after, own):
        new = reestimated(after, data, reader)
    return found if new is None else {**found, NEW: new}


def recoveries(seen: Observed, targets: Tensor, head: Repaired, seed: int) -> tuple[Recovery, ...]:
    """Every repair's figures."""
    right = {name: logits.argmax(1) == targets for name, logits in seen.logits.items()}
    reasons = {OLD: "the network keeps no norm statistics",
               NEW: "no batch has two examples" if OLD in right else "the network keeps no norm statistics"}
    found = [_recovery(name, right[name], right, seed) if name in right
             else Recovery(name, None, None, None, note=reasons[name]) for name in (OLD, NEW)]
    if head.answers is None:
        return (*found, Recovery(HEAD, None, None, None, note=head.note))
    reference = None if head.reference is None else int((head.reference == targets).sum()) / len(targets)
    common = targets == targets.mode().values
    start = max(right[AFTER], common, key=lambda rows: int(rows.sum()))
    return (*found, _recovery(HEAD, head.answers == targets, {**right, AFTER: start}, seed, reference, head.note))


def _recovery(name: str, repaired: Tensor, right: Mapping[str, Tensor], seed: int, reference: float | None = None,
              note: str | None = None) -> Recovery:
    lost = int(right[BEFORE].sum()) - int(right[AFTER].sum())
    back = int(repaired.sum()) - int(right[AFTER].sum())
    return Recovery(name, int(repaired.sum()) / len(repaired), difference(repaired, right[AFTER], seed),
                    back / lost if lost > 0 else None, reference, note)


class Heads:
    """Fits the source head anew on the features of the new model, and of the old one to see what there was to keep.

    Args:
        before, after: the models.
        name: of the head; None where none was found.
        reader: reads labels.
        seed: of the halves.
    """

    def __init__(self, before: nn.Module, after: nn.Module, name: str | None, reader: Reader, seed: int) -> None:
        self.models = {AFTER: after, BEFORE: before}
        self.name, self.reader, self.seed = name, reader, seed

    def refitted(self, seen: Observed, targets: Tensor, data: Stream | None) -> Repaired:
        """Both models' answers with a head that was fitted on other examples than it is tested on.

        Args:
            seen: the heads' inputs on the source data.
            targets: its labels.
            data: to fit on; None for the halves of the source data in turn.
        """
        if self.name is None:
            return Repaired(None, note="no linear layer gives the logits as they are; say which with head=")
        if seen.inputs is None:
            return Repaired(None, note=f"{self.name} does not get one row of features an example")
        if data is None and len(targets) < 2:
            return Repaired(None, note="a single example has no halves to fit and to test on")
        classes, answers, converged = seen.logits[AFTER].shape[1], {}, True
        given = None if data is None else self._given(data, labelled=seen.targets is not None)
        for which in self.models:
            if given is None:
                answers[which], good = crossed(seen.inputs[which], targets, classes, self.seed)
            else:
                head = fit(*given[which], classes)
                answers[which], good = head.answers(seen.inputs[which]).cpu(), head.converged
            converged &= good
        return Repaired(answers[AFTER], answers[BEFORE], None if converged else "L-BFGS did not converge")

    def _given(self, data: Stream, *, labelled: bool) -> dict[str, tuple[Tensor, Tensor]]:
        """Features and labels to fit on, by model; without labels the old model's answers."""
        seen = observe(self.models[BEFORE], self.models[AFTER], data, self.reader, self.name, {})
        if labelled and seen.targets is None:
            raise ValueError("refit= has no labels, the source data has: give it some, or leave refit= away")
        targets = seen.targets if labelled and seen.targets is not None else seen.logits[BEFORE].argmax(1)
        assert seen.inputs is not None
        return {which: (features, targets) for which, features in seen.inputs.items()}
