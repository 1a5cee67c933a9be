"""Runs on Weights & Biases: configuration, figures a step and a task, and what came out. Needs the extra ``wandb``."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any

from forgetting.integrations.sinks import Event, Sink, observed
from forgetting.protocol import Recipe


@contextlib.contextmanager
def observing(
    recipe: Recipe,
    seed: int = 0,
    *,
    project: str = "forgetting",
    mode: str | None = None,
    directory: str | os.PathLike[str] | None = None,
) -> Iterator[Callable[[Event], None]]:
    """An observer for :func:`forgetting.run` that keeps one wandb run for one recipe and seed.

    Logged at every measured step: task, step, loss, ``accuracy/TASK`` and, with a regularizer, penalty, pull, gradient
    and ratio (``pretraining/…`` while the source is learned); after every task ``learned/NUMBER``, the accuracy on each
    task, and seconds; at the end, in the summary, source accuracy before and after, retention, average accuracy,
    forgetting, the accuracy matrix and seconds. The wandb run is named by the run's key, so that a resumed run goes on
    in the same place; of a run that the store knows already only configuration and summary are written.

    Args:
        recipe: what is run; it becomes the configuration.
        seed: of the run.
        project: of wandb.
        mode: ``"online"``, ``"offline"`` (no account, no network; ``wandb sync`` sends it later) or ``"disabled"``;
            None leaves it to ``WANDB_MODE`` and wandb's own settings.
        directory: where wandb keeps its files; None is wandb's own choice.

    Returns:
        A context that gives the observer and ends the wandb run: as failed where an exception passes.

    Raises:
        ModuleNotFoundError: without wandb; the extra ``wandb`` brings it.

    **Cost**: wandb's own process; nothing is measured for it.

    Example:
        >>> with observing(Recipe("digits-transfer"), seed=0, mode="disabled") as observe:   # doctest: +SKIP
        ...     forgetting.run(Recipe("digits-transfer"), seed=0, observe=observe)
    """
    try:
        import wandb
    except ModuleNotFoundError as error:
        if error.name != "wandb":
            raise
        raise ModuleNotFoundError("logging to wandb needs the extra 'wandb': pip install 'forgetting[wandb]'",
                                  name="wandb") from error
    with observed(_Run(wandb, recipe, seed, {"project": project, "mode": mode, "dir": directory})) as observe:
        yield observe


class _Run(Sink):
    """One run of wandb."""

    def __init__(self, wandb: Any, recipe: Recipe, seed: int, options: dict[str, Any]) -> None:
        self.wandb, self.recipe, self.seed, self.options = wandb, recipe, seed, options
        self.run: Any = None

    def open(self, start: Event) -> None:
        offline = (self.options["mode"] or os.environ.get("WANDB_MODE")) in ("offline", "disabled", "dryrun")
        self.run = self.wandb.init(
            **self.options, id=start["key"], name=f"{start['method']}, seed {self.seed}", group=start["sequence"],
            job_type=start["method"], config={**self.recipe.as_data(), "seed": self.seed, "tasks": start["tasks"]},
            resume=None if offline else "allow", reinit=True,
        )

    def row(self, figures: dict[str, Any], event: Event) -> None:
        self.run.log(figures)

    def summary(self, figures: dict[str, Any]) -> None:
        self.run.summary.update(figures)

    def close(self, *, failed: bool) -> None:
        self.run.finish(exit_code=int(failed))
