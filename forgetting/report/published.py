"""Figures beside those that somebody published: the first table of a page about a reproduction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from forgetting.report.tables import written


@dataclass(frozen=True)
class Published:
    """One published figure, in percent, or one statement, and ours.

    Args:
        name: of the row, or the statement itself.
        published: as printed, ``"99.12 ± 0.16"``; empty for a statement.
        ours: in the same form; empty for a statement.
        sign: ``"✓"`` within the criterion, ``"✗"`` outside, ``"–"`` where no verdict is due.
        about: the criterion, or what was found.
        note: why ours differs, where it does.

    Example:
        >>> Published("EWC", "99.12 ± 0.16", "99.18 ± 0.12", "✓", "within ± 0.70").sign
        '✓'
    """

    name: str
    published: str
    ours: str
    sign: str
    about: str
    note: str = ""


@dataclass(frozen=True)
class Publication:
    """What was published, and where.

    Args:
        title: of the table.
        source: where it was printed, and what stands after its ±.
        figures: in the table's order.

    Example:
        >>> Publication("Split MNIST", "Somebody 2020, table 1", ()).title
        'Split MNIST'
    """

    title: str
    source: str
    figures: Sequence[Published]


def reproduction(publication: Publication) -> dict[str, Any]:
    """The table of a page."""
    lines = [{"name": figure.name, "cells": [
        written(figure.published), written(figure.ours), written(figure.sign), written(figure.about, figure.note)]}
        for figure in publication.figures]
    signs = [figure.sign for figure in publication.figures]
    count = f"{signs.count('✓')} of {len(signs)} agree, {signs.count('✗')} do not"
    return {"title": publication.title, "heads": ["row", "published (%)", "ours (%)", "", "criterion"], "rows": lines,
            "note": f"{publication.source}. ✓ within the criterion, ✗ outside, – no verdict: {count}."}
