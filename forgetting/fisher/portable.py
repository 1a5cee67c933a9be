"""An estimate that travels: the matrix, the weights it belongs to, and which data it saw."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch.distributed
from torch import nn

from forgetting.curvature import Anchored
from forgetting.fisher.batches import Batch
from forgetting.fisher.distributed import Ranks
from forgetting.fisher.estimate import diagonal
from forgetting.fisher.fingerprint import Fingerprint
from forgetting.fisher.kronecker import kronecker
from forgetting.fisher.likelihoods import Categorical, Likelihood
from forgetting.parameters import Selection, named, snapshot

_ESTIMATORS: dict[str, Callable[..., Any]] = {"diagonal": diagonal, "kronecker": kronecker}


def anchored(
    model: nn.Module,
    data: Iterable[Batch],
    *,
    curvature: str = "diagonal",
    labels: str = "exact",
    likelihood: Likelihood | None = None,
    outputs: Iterable[int] | None = None,
    parameters: Selection = None,
    examples: int | None = None,
    process_group: torch.distributed.ProcessGroup | None = None,
    **options: Any,
) -> Anchored:
    """Estimate a matrix, and keep with it all that ``consolidate`` needs where the data cannot go.

    Args:
        model: left as found; its present weights are the anchor.
        data: batches, as for :func:`diagonal`. Their SHA-256 is taken as they pass, in their order: the batch size does
            not change it, shuffling does.
        curvature: which matrix, ``"diagonal"`` or ``"kronecker"`` (see :func:`kronecker`).
        labels, likelihood, outputs, parameters, examples, process_group: as for :func:`diagonal`. Over several
            processes every one gets the same result, with a fingerprint a process; save it on one of them.
        options: what else that function takes, such as ``tolerance`` or ``progress``; ``precision`` for a diagonal,
            ``approximation`` for factors.

    Returns:
        An :class:`~forgetting.curvature.Anchored`, with ``save``, ``load`` and ``merge``.

    Raises:
        ValueError: for a matrix of another name; and what the estimate raises.
        TypeError: for a likelihood whose settings are no plain values, which a file could not hold.

    **Cost**: the estimate, one copy of the covered parameters, and hashing the batches on the CPU.

    Example:
        >>> import torch, forgetting.fisher
        >>> model = nn.Linear(2, 3, bias=False)
        >>> data = [(torch.randn(4, 2), torch.tensor([0, 1, 2, 0]))]
        >>> kept = forgetting.fisher.anchored(model, data)
        >>> kept.examples, kept.labels, kept.likelihood
        (4, 'exact', {'name': 'Categorical', 'ignore_index': -100})
        >>> torch.equal(kept.anchor["weight"], model.weight)
        True
    """
    if curvature not in _ESTIMATORS:
        raise ValueError(f"curvature={curvature!r} is not one of {', '.join(_ESTIMATORS)}")
    if likelihood is not None and not isinstance(likelihood, Likelihood):
        raise TypeError(f"likelihood= takes one of forgetting.fisher, such as Categorical(), got {likelihood!r}")
    meaning = described(likelihood or Categorical())
    columns = None if outputs is None else tuple(outputs)
    stream = Fingerprint(data, examples)
    if process_group is not None:
        options["process_group"] = process_group
    found = _ESTIMATORS[curvature](model, stream, labels=labels, likelihood=likelihood, outputs=columns,
                                   parameters=parameters, examples=examples, **options)
    anchor = snapshot(named(model, set(found.names()).__contains__, trainable=False))
    seen = tuple(digest for digest in Ranks(process_group).gather(stream.hexdigest()) if digest)
    return Anchored(found, anchor, labels, meaning, columns, found.examples, seen, options.get("tolerance", 0.0))


def described(likelihood: Likelihood) -> dict[str, Any]:
    """A likelihood's name and settings, as a file can hold them."""
    settings = vars(likelihood)
    for name, value in settings.items():
        if not (value is None or isinstance(value, (bool, int, float, str))):
            raise TypeError(f"a file cannot say what {type(likelihood).__name__}.{name} is, a {type(value).__name__}; "
                            "keep numbers and texts in a likelihood that is to be saved")
    return {"name": type(likelihood).__name__, **settings}
