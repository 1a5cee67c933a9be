"""What every command shares: where it writes, how an error looks, which devices there are."""

from __future__ import annotations

import os
from typing import Any

import click
import torch
from rich.console import Console

console = Console()
TRACEBACK = "FORGETTING_TRACEBACK"


class Errors(click.Group):
    """Turns the library's own errors into one readable line; anything else keeps its traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (ValueError, TypeError, KeyError, OSError, ImportError, SyntaxError) as error:
            if os.environ.get(TRACEBACK):
                raise
            text = error.args[0] if isinstance(error, KeyError) and error.args else error
            raise click.ClickException(f"{text}\n({TRACEBACK}=1 shows where)") from error
        except KeyboardInterrupt:
            raise click.ClickException("interrupted; the same command goes on after the last finished task") from None


def usable(device: str) -> str:
    """The device, where this machine has it."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise click.BadParameter(f"device {device!r} cannot be used here ({str(error).splitlines()[0]}); "
                                 f"leave --device away for {default_device()!r}") from error
    return device


def default_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"
