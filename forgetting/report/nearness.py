"""Similarity that was measured before training, beside the forgetting that was measured after it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup

from forgetting.protocol import statistics
from forgetting.report.rows import LEVEL
from forgetting.report.tables import minus, written
from forgetting.similarity import DIRECTIONS, Correlation, correlations

LEAST = 3
NAMES = {"leep": "LEEP", "nce": "NCE", "logme": "LogME", "h_score": "H-score", "cka": "CKA", "mmd": "MMD",
         "frechet": "Fréchet distance", "proxy_a_distance": "proxy A-distance", "fisher_distance": "Fisher distance"}
_CAPTION = ("A point is a pair of source and target, mean over seeds: the measure before training, and the accuracy "
            "that the source lost while plain fine-tuning learned this target. Shapes are sequences. ρ: Spearman's.")
_CORRELATIONS = ("p: permutation test of ρ ≠ 0; Holm: corrected for the number of measures. A distance that foretells "
                 "forgetting has a positive ρ, a measure of closeness a negative one. Pairs of one sequence share "
                 "their source and are not independent: p is too small for them.")
_PAIRS = ("Figures on 1000 training examples of either task, at the model that knew the source; mean over seeds. Lost: "
          "source accuracy before this target less after it, under plain fine-tuning. Later targets find a model that "
          "has forgotten some already.")


@dataclass(frozen=True)
class Pair:
    """A source and one target of one run.

    Args:
        sequence: what was learned, in words.
        number: of the target in the sequence, from 2.
        seed: of the run.
        figures: of each measure, before training.
        lost: source accuracy lost while the target was learned.
    """

    sequence: str
    number: int
    seed: int
    figures: Mapping[str, float]
    lost: float


class Similarities(NamedTuple):
    """What :func:`similarities` measured.

    Args:
        pairs: one a run and target.
        left_out: why other runs have none.
    """

    pairs: tuple[Pair, ...]
    left_out: tuple[str, ...]


def joined(plots: ModuleType, found: Similarities) -> dict[str, Any]:
    """What the template shows: a headline, a scatter for each measure, two tables."""
    means = over_seeds(found.pairs)
    correlated = {name: told for name in _names(means) if (told := _correlated(name, means)) is not None}
    figure = None
    if means:
        drawn = plots.scatter(means, NAMES, correlated)
        figure = Markup(plots.inline(drawn, "scatter", "Similarity against forgetting"))
    return {"headline": headline(means, correlated), "figure": figure, "caption": _CAPTION,
            "correlations": _ranked(correlated, len(means)), "pairs": _table(means, found)}


def over_seeds(pairs: Sequence[Pair]) -> list[Pair]:
    """One pair a sequence and target: the means over its seeds; ``seed`` counts them."""
    gathered: dict[tuple[str, int], list[Pair]] = {}
    for pair in pairs:
        gathered.setdefault((pair.sequence, pair.number), []).append(pair)
    return [Pair(sequence, number, len(own), {name: float(np.mean([pair.figures[name] for pair in own]))
                                              for name in own[0].figures}, float(np.mean([pair.lost for pair in own])))
            for (sequence, number), own in sorted(gathered.items())]


def headline(means: Sequence[Pair], correlated: Mapping[str, Correlation]) -> str:
    """Which measure orders the pairs best, or why none can be told to."""
    if len(means) < LEAST:
        what = f"{len(means)} pair{'s' * (len(means) != 1)} of tasks"
        return f"{what}: too few for a rank correlation, which takes {LEAST}; run more sequences into this store."
    if not correlated:
        return f"On {len(means)} pairs of tasks no correlation is defined: all of them lost equally much."
    right = {name: told for name, told in correlated.items()
             if told.coefficient * (1 if DIRECTIONS[name] == "farther" else -1) > 0}
    if not right:
        return f"On {len(means)} pairs of tasks no measure orders the forgetting as it should."
    best = max(right, key=lambda name: abs(right[name].coefficient))
    told, corrected = right[best], _holm(correlated)[best]
    sure = "" if corrected < LEVEL else ": no evidence"
    return (f"Of {len(correlated)} measures taken before training, the {NAMES[best]} orders the forgetting of "
            f"{told.pairs} pairs of tasks best: ρ = {_signed(told.coefficient)} (p = {corrected:.2g} after Holm's "
            f"correction{sure}).")


def _names(means: Sequence[Pair]) -> list[str]:
    return [name for name in DIRECTIONS if any(name in pair.figures for pair in means)]


def _correlated(name: str, means: Sequence[Pair]) -> Correlation | None:
    """One measure's correlation; None where it is not defined."""
    own = [pair for pair in means if name in pair.figures]
    values = [[pair.figures[name] for pair in own], [pair.lost for pair in own]]
    if len(own) < LEAST or any(len(set(row)) == 1 or any(math.isnan(value) for value in row) for row in values):
        return None
    return correlations([{name: pair.figures[name]} for pair in own], values[1])[name]


def _holm(correlated: Mapping[str, Correlation]) -> dict[str, float]:
    return statistics.holm({name: told.p_value for name, told in correlated.items()})


def _ranked(correlated: Mapping[str, Correlation], pairs: int) -> dict[str, Any]:
    """Every measure's correlation; without rows where there are too few pairs."""
    corrected = _holm(correlated) if correlated else {}
    rows = [{"name": NAMES[name], "cells": [
        written(DIRECTIONS[name]), written(_signed(told.coefficient)), written(told.pairs),
        written(f"{told.p_value:.2g}"), written(f"{corrected[name]:.2g}")]} for name, told in correlated.items()]
    few = f"{pairs} pairs are too few for a correlation: it takes {LEAST}."
    return {"heads": ["measure", "a high figure means", "ρ", "n pairs", "p", "Holm"], "rows": rows,
            "note": _CORRELATIONS if rows else few if pairs < LEAST else ""}


def _table(means: Sequence[Pair], found: Similarities) -> dict[str, Any]:
    """Every pair in numbers."""
    names = _names(means)
    rows = [{"name": f"{pair.sequence}: task {pair.number}", "cells": [
        written(pair.seed), written(minus(f"{100 * pair.lost:.1f}")),
        *(written(minus(f"{pair.figures[name]:.3g}").replace("inf", "∞") if name in pair.figures else "–")
          for name in names)]} for pair in means]
    out = f" Left out: {'; '.join(found.left_out)}." if found.left_out else ""
    return {"heads": ["source and target", "seeds", "lost (points)", *(NAMES[name] for name in names)],
            "rows": rows, "note": (_PAIRS if rows else "No pair of tasks could be measured.") + out}


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")
