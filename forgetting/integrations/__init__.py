"""Leaves: other people's tools. Each module imports its package when it is used; only the command line imports them."""

__all__: list[str] = []
