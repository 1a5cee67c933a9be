"""Where an experiment's numbers come from, as text."""

from __future__ import annotations

import json
from typing import Any

from forgetting.report.groups import Experiment


def provenance(experiment: Experiment) -> str:
    """Recipe, methods, seeds, run keys, versions and data hashes as JSON; what all runs share stands once."""
    methods = {group.label: {"settings": group.settings, "runs": {seed: run.key for seed, run in group.runs.items()}}
               for group in experiment.groups}
    runs = {f"{group.label}, seed {seed}": run.provenance
            for group in experiment.groups for seed, run in group.runs.items()}
    keys = dict.fromkeys(key for found in runs.values() for key in found)
    data = {"recipe": experiment.shared, "methods": methods, "runs": {key: _told(key, runs) for key in keys}}
    return json.dumps(data, indent=1, ensure_ascii=False, default=str)


def _told(key: str, runs: dict[str, dict[str, Any]]) -> Any:
    """One value where all runs agree, else the value of each run."""
    values = {name: found.get(key) for name, found in runs.items()}
    first = next(iter(values.values()))
    return first if all(value == first for value in values.values()) else values
