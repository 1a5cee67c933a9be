"""One self-contained HTML page: what was kept, what was learned, what it cost, and where the numbers come from."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import jinja2
from markupsafe import Markup

from forgetting.protocol import Result
from forgetting.report import tables
from forgetting.report.groups import Experiment, experiments
from forgetting.report.headline import headline
from forgetting.report.provenance import provenance
from forgetting.report.rows import experiment_rows

_PLANE = ("Up is kept, right is learned; the best corner is top right. Each marker is a mean over seeds with its "
          "standard error; a line joins runs of one method with different settings, or the models on the straight way "
          "from before (0) to after (1) that weight interpolation offers.")
_STEPS = ("Test accuracy while the tasks are learned, mean and standard error over seeds; vertical lines are ends of "
          "tasks, and a task's last point is the model that was kept. Nothing was chosen by these curves.")
_SCALED = " Methods that take more steps a task (joint training sees more data) are drawn to the width of the others."
_DRIFT = ("‖θ − θ₀‖ ÷ ‖θ₀‖ of each layer's weight at the end, against the model as given; mean over seeds. A layer "
          "with 0 did not move.")
_MATRICES = ("Percent of the test examples that are right, mean over seeds: a row after each task learned (given: the "
             "model before any), a column for each task tested. Pale is 0, deep blue is 100.")


def page(results: Iterable[Result], path: str | os.PathLike[str]) -> Path:
    """Write one HTML file that needs no network, no script and no other file.

    It holds, for each experiment among the results: a headline, the retention–adaptation plane, all figures and the
    paired comparison in tables, accuracy over steps, the accuracy matrices, drift by layer, the share of the norm
    statistics where the model has some, cost and provenance. The same results give the same bytes.

    Args:
        results: finished runs, in any order.
        path: of the file to write; an existing one is replaced.

    Returns:
        The path.

    Raises:
        ValueError: without results, or for two results of the same run.
        ModuleNotFoundError: without matplotlib; the extra ``report`` brings it.

    **Cost**: about a second an experiment of nine methods.
    """
    plots = _plots()
    found = experiments(results)
    with plots.look():
        parts = [_part(plots, experiment, f"e{number}") for number, experiment in enumerate(found, 1)]
    environment = jinja2.Environment(loader=jinja2.PackageLoader("forgetting.report", ""), autoescape=True,
                                     undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    title = "What was kept, what was learned: " + "; ".join(experiment.title for experiment in found)
    text = environment.get_template("page.html.jinja").render(title=title, parts=parts)
    path = Path(path)
    path.write_text(text, encoding="utf-8")
    return path


def save_picture(results: Iterable[Result], path: str | os.PathLike[str]) -> Path:
    """Write the retention–adaptation plane as a picture of its own, for a README.

    Args:
        results: finished runs of one experiment.
        path: ends in ``.svg`` or ``.png``.

    Returns:
        The path.

    Raises:
        ValueError: for another ending, several experiments, or results without a source that was learned.
        ModuleNotFoundError: without matplotlib; the extra ``report`` brings it.

    **Cost**: about half a second.
    """
    plots = _plots()
    found = experiments(results)
    if len(found) > 1:
        raise ValueError(f"one picture shows one experiment, these results hold {len(found)}: "
                         + "; ".join(experiment.title for experiment in found))
    with plots.look():
        drawn = plots.retention_adaptation(found[0], experiment_rows(found[0]))
        if drawn is None:
            raise ValueError("there is nothing to draw: the source was never learned, or there is one task only")
        plots.write(drawn, path)
    return Path(path)


def figure_svg(results: Iterable[Result]) -> list[tuple[str, str]]:
    """The figures of the page, each as (name, SVG text), for pages of one's own."""
    plots = _plots()
    with plots.look():
        return [figure for number, experiment in enumerate(experiments(results), 1)
                for figure in _figures(plots, experiment, experiment_rows(experiment), f"e{number}")[0].items()]


def _plots() -> ModuleType:
    """The drawing modules, which need matplotlib."""
    try:
        from forgetting.report import plots
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "matplotlib":
            raise
        raise ModuleNotFoundError("figures need matplotlib, which the extra 'report' brings: "
                                  "pip install 'forgetting[report]'", name=error.name) from error
    return plots


def _part(plots: ModuleType, experiment: Experiment, prefix: str) -> dict[str, Any]:
    """Everything the template shows of one experiment."""
    rows = experiment_rows(experiment)
    joint = {group.label for group in experiment.groups if group.joint}
    figures, scaled = _figures(plots, experiment, rows, prefix)
    drawn = {name.removeprefix(f"{prefix}-"): Markup(svg) for name, svg in figures.items()}
    return {
        "title": experiment.title,
        "headline": headline(rows, joint),
        "facts": tables.facts(experiment),
        "plane": drawn.get("plane"),
        "plane_caption": _PLANE,
        "summary": tables.summary(rows, joint),
        "paired": tables.paired(rows),
        "steps": drawn.get("steps"),
        "steps_caption": _STEPS + (_SCALED if scaled else ""),
        "matrices": [svg for name, svg in drawn.items() if name.startswith("matrix-")],
        "matrices_note": _MATRICES,
        "drift": drawn.get("drift"),
        "drift_caption": _DRIFT,
        "statistics": tables.norm_statistics(experiment, rows),
        "cost": tables.cost(experiment, rows),
        "provenance": provenance(experiment),
    }


def _figures(
    plots: ModuleType, experiment: Experiment, rows: list[dict[str, Any]], prefix: str
) -> tuple[dict[str, str], bool]:
    """The figures that the results allow, name -> SVG, and whether steps were drawn to scale."""
    found: dict[str, str] = {}

    def add(name: str, title: str, figure: Any) -> None:
        if figure is not None:
            found[f"{prefix}-{name}"] = plots.inline(figure, f"{prefix}-{name}", title)

    add("plane", "Retention against adaptation, one marker or path a method",
        plots.retention_adaptation(experiment, rows))
    steps, scaled = plots.while_learning(experiment, rows) or (None, False)
    add("steps", "Source and target accuracy over steps", steps)
    for number, (label, figure) in enumerate(plots.matrices(experiment, rows), 1):
        add(f"matrix-{number}", f"Accuracy matrix of {label}", figure)
    add("drift", "Relative change of each layer", plots.layer_drift(experiment, rows))
    return found, scaled
