"""What all pages share: the drawing modules and the templates."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import jinja2


def drawing() -> ModuleType:
    """The drawing modules, which need matplotlib."""
    try:
        from forgetting.report import plots
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "matplotlib":
            raise
        raise ModuleNotFoundError("figures need matplotlib, which the extra 'report' brings: "
                                  "pip install 'forgetting[report]'", name=error.name) from error
    return plots


def render(template: str, **values: Any) -> str:
    """A page from its template."""
    environment = jinja2.Environment(loader=jinja2.PackageLoader("forgetting.report", ""), autoescape=True,
                                     undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.get_template(template).render(**values)
