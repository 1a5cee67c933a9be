"""Runs on Weights & Biases: configuration, figures a step and a task, and what came out. Needs the extra ``wandb``."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any

from forgetting.protocol import Recipe, Result, metrics

_IDENTIFYING = ("event", "method", "sequence", "seed", "key", "name", "tasks", "phase", "steps", "accuracy")


@contextlib.contextmanager
def observing(
    recipe: Recipe,
    seed: int = 0,
    *,
    project: str = "forgetting",
    mode: str | None = None,
    directory: str | os.PathLike[str] | None = None,
) -> Iterator[Callable[[dict[str, Any]], None]]:
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
    open_run: Any = None

    def observe(event: dict[str, Any]) -> None:
        nonlocal open_run
        if event["event"] == "start":
            offline = (mode or os.environ.get("WANDB_MODE")) in ("offline", "disabled", "dryrun")
            open_run = wandb.init(
                project=project, id=event["key"], name=f"{event['method']}, seed {seed}", group=event["sequence"],
                job_type=event["method"], config={**recipe.as_data(), "seed": seed, "tasks": event["tasks"]},
                mode=mode, dir=directory, resume=None if offline else "allow", reinit=True,
            )
        elif event["event"] == "result":
            open_run.summary.update(summary(event["result"]))
        else:
            row = logged(event)
            if row:
                open_run.log(row)

    failed = True
    try:
        yield observe
        failed = False
    finally:
        if open_run is not None:
            open_run.finish(exit_code=int(failed))


def logged(event: dict[str, Any]) -> dict[str, Any]:
    """What one event adds to wandb's history; nothing for an event without figures."""
    plain = {name: value for name, value in event.items() if name not in _IDENTIFYING and value is not None}
    if event["event"] == "step":
        before = f"{event['phase']}/" if "phase" in event else ""
        accuracy = {f"accuracy/{name}": value for name, value in event["accuracy"].items()}
        return {f"{before}{name}": value for name, value in {**plain, **accuracy}.items()}
    if event["event"] == "task":
        return {**plain, **{f"learned/{number}": value for number, value in enumerate(event["accuracy"], 1)}}
    if event["event"] == "consolidation":
        return {"task": event["task"], "consolidation_seconds": event["seconds"]}
    return {}


def summary(result: Result) -> dict[str, Any]:
    """A finished run in one row: what the tables show, and the accuracy matrix as nested lists."""
    matrix = result.accuracy
    row = {
        "source_before": float(matrix[1, 0]),
        "source_after": float(matrix[-1, 0]),
        "average_accuracy": metrics.average_accuracy(matrix),
        "seconds": result.seconds,
        "peak_bytes": result.peak_bytes,
        "accuracy_matrix": matrix.tolist(),
    }
    if matrix[1, 0] > 0:
        row["retention"] = metrics.retention(matrix)
    if matrix.shape[1] > 1:
        row["forgetting"] = metrics.forgetting(matrix)
    if result.restored is not None:
        row["source_after_with_old_statistics"] = result.restored
    return row
