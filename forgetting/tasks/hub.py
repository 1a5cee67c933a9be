"""transformers, where it is there."""

from __future__ import annotations

from typing import Any


def transformers(what: str) -> Any:
    """The package; without it an ImportError that says what needs it and how to get it."""
    try:
        import transformers as found
    except ImportError as error:
        raise ImportError(f'{what} come with transformers: pip install "forgetting[hf]"') from error
    return found
