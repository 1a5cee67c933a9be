"""What the diagnoses of runs say of each method: where it lost the source, and what brings it back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from forgetting.protocol.statistics import Interval
from forgetting.report.rows import compare
from forgetting.report.rows import summary as summarised
from forgetting.report.sweeps import Reported
from forgetting.report.tables import Cell, cell, minus, within, written

REPAIRS = ("old norm statistics", "new norm statistics", "head refitted")
SMALL = 0.005  # of the accuracy: of a smaller loss no share is told
_CLASSES = 3
ASK = "forgetting run … --diagnose"
UNKNOWN = (f"None of these runs holds a diagnosis: {ASK} keeps with each run what was lost and where. A finished run "
           "stays as it is, its models are gone: choose another directory.")
_NOTE = ("On at most 2000 of the source's test examples, mean ± standard error over seeds. Change: the 95 % interval "
         "is Student's over seeds, of one seed the paired bootstrap over examples. Flips: right before, wrong now. "
         "Calibration: expected error, 15 bins. Fisher norm: Σ F Δθ², F of the model that knew the source. The last "
         "columns: points that come back, and their share of what was lost (none of less than half a point).")


@dataclass(frozen=True)
class Losses:
    """One method's diagnoses, seed by seed."""

    label: str
    by_seed: Mapping[int, Mapping[str, Any]]

    def mean(self, figure: str, which: str) -> float:
        """The mean over seeds of a figure of the model ``before`` or ``after``."""
        return float(np.mean([found[which][figure] for found in self.by_seed.values()]))

    def repairs(self) -> dict[str, list[float]]:
        """Repair -> accuracy after it, one a seed, of the repairs that every seed has."""
        found: dict[str, list[float]] = {name: [] for name in REPAIRS}
        for diagnosis in self.by_seed.values():
            for each in diagnosis["recoveries"]:
                if each["accuracy"] is not None:
                    found[each["name"]].append(each["accuracy"])
        return {name: values for name, values in found.items() if len(values) == len(self.by_seed)}

    def layers(self) -> dict[str, dict[str, float | None]]:
        """Layer -> mean over seeds of each of its figures; None where no seed has it."""
        gathered: dict[str, dict[str, list[float]]] = {}
        for diagnosis in self.by_seed.values():
            for module in diagnosis["modules"]:
                own = gathered.setdefault(module["name"], {"relative": [], "cka": [], "fisher": []})
                for kind, values in own.items():
                    if module[kind] is not None:
                        values.append(module[kind])
        return {name: {kind: float(np.mean(values)) if values else None for kind, values in own.items()}
                for name, own in gathered.items()}


def losses(found: Reported) -> list[Losses]:
    """The methods whose runs were diagnosed, in the order of their rows."""
    groups = {group.label: group for group in found.experiment.groups}
    gathered = [Losses(row["method"], {seed: run.diagnosis for seed, run in groups[row["method"]].runs.items()
                                       if run.diagnosis is not None}) for row in found.rows]
    return [one for one in gathered if one.by_seed]


def table(methods: Sequence[Losses]) -> dict[str, Any]:
    """Every method's figures: what was lost, and how much each repair brings back."""
    named = [name for name in REPAIRS if any(name in one.repairs() for one in methods)]
    heads = ["method", "n", "source before → after (%)", "change: points (95 % interval)", "negative flips (%)",
             "most forgotten classes (points)", "calibration error before → after (%)", "Fisher norm",
             *(f"{name}: points back (share)" for name in named)]
    lines = [{"name": one.label, "cells": _cells(one, named)} for one in methods]
    return {"heads": heads, "rows": lines, "note": _NOTE}


def verdicts(methods: Sequence[Losses]) -> list[dict[str, str]]:
    """One sentence a method: that of its first seed, and how many seeds say the same of the remedy."""
    found = []
    for one in methods:
        seed, first = next(iter(one.by_seed.items()))
        same = sum(diagnosis["remedy"] == first["remedy"] for diagnosis in one.by_seed.values())
        remedy = first["remedy"] or "no remedy"
        small = f"Seed {seed}." if len(one.by_seed) == 1 else (
            f"Seed {seed}; {same} of {len(one.by_seed)} seeds come to the same: {remedy}.")
        found.append({"method": one.label, "sentence": first["verdict"], "small": small})
    return found


def left_out(found: Reported, methods: Sequence[Losses]) -> str:
    """Which methods have no diagnosis."""
    known = {one.label for one in methods}
    without = [row["method"] for row in found.rows if row["method"] not in known]
    return f" Run without a diagnosis: {', '.join(without)}." if without else ""


def _cells(one: Losses, named: Sequence[str]) -> list[Cell]:
    before, after = one.mean("accuracy", "before"), one.mean("accuracy", "after")
    return [written(len(one.by_seed)), written(f"{100 * before:.1f} → {100 * after:.1f}"), _lost(one),
            cell(summarised(found["negative_flips"]["estimate"] for found in one.by_seed.values()), 100.0),
            written(classes(one)), _calibration(one),
            cell(summarised(found["fisher"] for found in one.by_seed.values()), digits=3),
            *(_back(one, name, before - after) for name in named)]


def _lost(one: Losses) -> Cell:
    """The difference of the accuracies with its interval."""
    values = list(one.by_seed.values())
    if len(values) == 1:
        found = values[0]["difference"]
        return written("–") if found is None else within(Interval(**found))
    told = compare([found["after"]["accuracy"] - found["before"]["accuracy"] for found in values])
    low, high = told["interval"]
    return within(Interval(told["difference"], low, high, 0.95))


def classes(one: Losses) -> str:
    """The classes that fell most, mean over the seeds that have them."""
    drops: dict[int, list[float]] = {}
    for found in one.by_seed.values():
        for each in found["classes"]:
            drops.setdefault(each["label"], []).append(each["drop"])
    means = sorted(((float(np.mean(values)), label) for label, values in drops.items()), key=lambda pair: -pair[0])
    worst = [(label, drop) for drop, label in means[:_CLASSES] if drop > SMALL]
    return ", ".join(f"{label}: {minus(f'{-100 * drop:.0f}')}" for label, drop in worst) or "–"


def _calibration(one: Losses) -> Cell:
    if any(found["before"]["calibration_error"] is None for found in one.by_seed.values()):
        return written("–")
    return written(f"{100 * one.mean('calibration_error', 'before'):.1f} → "
                   f"{100 * one.mean('calibration_error', 'after'):.1f}")


def _back(one: Losses, name: str, lost: float) -> Cell:
    """What a repair brings back."""
    repaired = one.repairs().get(name)
    if repaired is None:
        return written("–")
    gains = [value - found["after"]["accuracy"] for value, found in zip(repaired, one.by_seed.values(), strict=True)]
    shown = cell(summarised(gains), 100.0)
    share = f"({100 * float(np.mean(gains)) / lost:.0f} %)" if lost > SMALL else ""
    return written(shown["text"], f"{shown['small']} {minus(share)}".strip())
