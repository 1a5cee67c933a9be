"""Errors for names that nobody knows."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_LIKE = 0.5  # difflib's ratio, from which a name is like another


def nearest(kind: str, name: object, known: Iterable[str]) -> str:
    """The text of an error: what came, a known name that is like it, and all of them."""
    known = list(known)
    close = difflib.get_close_matches(str(name), known, n=1, cutoff=_LIKE)
    hint = f"; did you mean {close[0]!r}?" if close else "."
    return f"there is no {kind} {name!r}{hint} Known: {', '.join(known)}"
