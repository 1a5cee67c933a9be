"""Errors for names that nobody knows."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(kind: str, name: object, known: Iterable[str]) -> str:
    """The text of an error: what came, the nearest known name, and all of them."""
    known = list(known)
    close = difflib.get_close_matches(str(name), known, n=1, cutoff=0.0)
    return f"there is no {kind} {name!r}; did you mean {close[0]!r}? Known: {', '.join(known)}"
