"""Two states of one network, compared on the source task's data."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from forgetting.diagnosis import figures
from forgetting.diagnosis import head as heads
from forgetting.diagnosis.answers import Forward, Reader, Stream
from forgetting.diagnosis.comparison import Comparison
from forgetting.diagnosis.drift import by_module, by_parameter, importance
from forgetting.diagnosis.observing import AFTER, BEFORE, EMPTY, Observed, observe
from forgetting.diagnosis.recovering import Heads, other_statistics, recoveries
from forgetting.diagnosis.stored import check_alike
from forgetting.fisher.batches import Batch
from forgetting.fisher.estimate import task_columns
from forgetting.parameters import evaluating, unwrapped

_LABELS = ("exact", "sampled")
_CHEAP = 32  # outputs, up to which a backward pass for each is no matter


def compare(
    before: nn.Module,
    after: nn.Module,
    source: Iterable[Batch],
    *,
    refit: Iterable[Batch] | None = None,
    outputs: Iterable[int] | None = None,
    head: str | None = None,
    forward: Forward | None = None,
    labels: str | None = None,
    seed: int = 0,
) -> Comparison:
    r"""What a fine-tune lost of the source task, where it was lost, and how much of it comes back.

    On the same examples, for the network before (:math:`\theta`) and after (:math:`\theta'`): accuracy with a paired
    bootstrap interval of the difference, flips in both directions, the drop of every class, calibration; by layer the
    weights' relative distance, linear CKA of what the layer gives out, and the drift in the Fisher norm

    .. math:: \sum_i F_i\,(\theta'_i - \theta_i)^2,\qquad F \text{ the Fisher diagonal of the old model on the source};

    and what comes back of the loss by each of three repairs: the old norm statistics put back (fault F28), the norm
    statistics measured anew on source data, the source head fitted anew on the new features.

    Args:
        before: the network before fine-tuning; run in eval mode and left as found, like ``after``.
        after: after it: the same parameter names and shapes. A head that was replaced goes back in before.
        source: HELD-OUT batches of the source task: ``(inputs, labels)`` pairs, mappings with ``labels``, or inputs
            alone; then the old model's answers stand for labels, and accuracy is agreement. Read several times (what
            can be read only once is kept in memory); the order may change from time to time. The CKA of layers is that
            of the first 1024 examples: shuffle data that is sorted by class.
        refit: other source data, like ``source``, to fit the head and to measure norm statistics on. Default: the head
            is fitted on one half of ``source`` and tested on the other, both ways; the statistics are measured on
            all of its inputs.
        outputs: the columns of the outputs that belong to the source; labels stay numbers of ALL columns.
        head: the name of the source's linear layer; default: the one whose outputs are the logits.
        forward: ``forward(model, batch) -> (outputs, labels)``, the labels None where there are none.
        labels: whose the Fisher diagonal is taken with: ``"exact"`` ones or ``"sampled"`` ones, which are noisy where
            the old model is sure. Default: exact up to 32 outputs, sampled above.
        seed: of the bootstrap, of the halves and of the sampled labels.

    Returns:
        A :class:`~forgetting.diagnosis.Comparison`.

    Raises:
        ValueError: for models that differ in names or shapes, with both lists; for data without examples, labels that
            are no outputs, outputs of another shape than [examples, classes] or that are not finite.
        TypeError: for models or batches of an unknown kind.

    **Cost**: forward passes over the source data: one of the old model and up to four of the new one; one forward and
    backward pass (with exact labels a backward pass a class) of the old model; two regressions by L-BFGS for either
    model. Memory: the logits and the head's inputs of all examples, one Fisher diagonal in float32 or better, and for
    each layer a 256 × 256 matrix.

    **Reference**: intervals: Efron 1987 (BCa), Wilson 1927; flips: Yan et al. 2021 (arXiv 2011.09161); calibration: Guo
    et al. 2017 (arXiv 1706.04599), 15 bins of equal width; CKA: Kornblith et al. 2019 (arXiv 1905.00414) as estimated
    over batches by Nguyen et al. 2021 (arXiv 2010.15327); Fisher: Kirkpatrick et al. 2017 (arXiv 1612.00796).

    **Differs**: batches are weighted by their examples in CKA.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> before, after = nn.Linear(4, 3), nn.Linear(4, 3)
        >>> inputs = torch.randn(60, 4, generator=generator)
        >>> found = compare(before, after, [(inputs, before(inputs).argmax(1))])
        >>> found.before.accuracy, found.agreement.estimate == found.after.accuracy
        (1.0, True)
    """
    if labels not in (None, *_LABELS):
        raise ValueError(f"labels={labels!r} is not one of {', '.join(_LABELS)}")
    old, new = unwrapped(before), unwrapped(after)
    check_alike(old, new)
    reader, data = Reader(forward, task_columns(outputs)), Stream(source)
    fitting = None if refit is None else Stream(refit)
    with evaluating(old), evaluating(new):
        with torch.no_grad():
            name = heads.find(new, _any(data), reader, head)
            seen = observe(old, new, data, reader, name, other_statistics(old, new, fitting or data, reader),
                           [path for path, module in new.named_modules() if module._parameters])
            targets = seen.logits[BEFORE].argmax(1) if seen.targets is None else seen.targets
            repaired = Heads(old, new, name, reader, seed).refitted(seen, targets, fitting)
        kind = labels or ("exact" if seen.logits[BEFORE].shape[1] <= _CHEAP else "sampled")
        drifted = by_parameter(old, new, importance(old, data, reader, kind, seed))
    return Comparison(
        **_answers(seen, targets, reader, seed), labels=kind, parameters=drifted,
        modules=by_module(old, new, drifted, seen.likeness), recoveries=recoveries(seen, targets, repaired, seed),
    )


def _any(data: Stream) -> Batch:
    """One batch."""
    for batch in data:
        return batch
    raise ValueError(EMPTY)


def _answers(seen: Observed, targets: Tensor, reader: Reader, seed: int) -> dict[str, Any]:
    """What the two models' answers say."""
    labelled = seen.targets is not None
    old, new = (seen.logits[which].argmax(1) for which in (BEFORE, AFTER))
    known, knows = old == targets, new == targets
    numbered = reader.numbered(torch.arange(seen.logits[BEFORE].shape[1]))
    return {
        "examples": len(targets),
        "labelled": labelled,
        "outputs": None if reader.columns is None else tuple(reader.columns.tolist()),
        "before": figures.figures(seen.logits[BEFORE], targets, labelled),
        "after": figures.figures(seen.logits[AFTER], targets, labelled),
        "difference": figures.difference(knows, known, seed),
        "agreement": figures.share(old == new),
        "negative_flips": figures.share(known & ~knows),
        "positive_flips": figures.share(~known & knows) if labelled else None,
        "classes": figures.drops(targets, known, knows, numbered),
    }
