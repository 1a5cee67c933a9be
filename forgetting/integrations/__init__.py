"""Leaves: other people's tools. Each module imports its package, and nothing but the command line imports them."""
