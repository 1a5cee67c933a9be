"""Shares of labelled examples that lie one within the other."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import torch

from forgetting.tasks import Examples
from forgetting.tasks.sequences import keyed


def nested(examples: Examples, shares: Iterable[float], *, seed: int = 0) -> dict[float, Examples]:
    """Stratified shares of examples, each holding all smaller ones: the 5 % hold the 1 %.

    Of a class with n examples a share s keeps max(1, round(s·n)): the first ones of one order, which the seed draws.

    Args:
        examples: what there is.
        shares: in (0, 1], each once.
        seed: decides which examples come first, at least 0.

    Returns:
        Share -> its examples in ascending order of shares; a share of 1 holds all.

    Raises:
        ValueError: without shares, for one outside (0, 1], given twice, or that keeps no more than a smaller one.

    **Cost**: a copy of each subset.

    Example:
        >>> ten = Examples(torch.rand(10, 3), torch.tensor([0, 1] * 5))
        >>> {share: len(some) for share, some in nested(ten, [0.2, 0.6, 1.0]).items()}
        {0.2: 2, 0.6: 6, 1.0: 10}
    """
    ordered = sorted(shares)
    if not ordered or len(set(ordered)) < len(ordered) or not all(0 < share <= 1 for share in ordered):
        raise ValueError(f"shares of the labels lie above 0 and up to 1, each once; got {ordered}")
    random = keyed(seed, "labels that are kept")
    targets = examples.targets.cpu()
    orders = []
    for label in torch.bincount(targets).nonzero().flatten().tolist():
        places = (targets == label).nonzero().flatten()
        orders.append(places[torch.from_numpy(random.permutation(len(places)))])
    kept = {share: torch.cat([order[: max(1, round(share * len(order)))] for order in orders]) for share in ordered}
    for small, large in itertools.pairwise(ordered):
        if len(kept[small]) == len(kept[large]):
            raise ValueError(f"shares of {small} and of {large} keep the same {len(kept[small])} of {len(examples)} "
                             "examples, as every class keeps one: leave one of them out, or take more examples")
    return {share: examples.subset(places.sort().values) for share, places in kept.items()}
