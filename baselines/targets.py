"""What was published: ``targets.toml``, typed."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FILE = Path(__file__).with_name("targets.toml")


@dataclass(frozen=True)
class Target:
    """One published figure, in percent.

    Args:
        row: its name.
        mean: as printed; None for a row that stands beside the published ones.
        spread: as printed after ±; None where nothing is.
        verified: whether the figure was seen in its source; one that was not gets no verdict.
        within: points by which ours may differ.
        deviations: in place of points, multiples of ``spread``, where that is a standard deviation.
        welch: in place of both: the 95 % Welch interval of the difference contains 0, ``spread`` a standard error.
        missed: why ours differs, and what was tried: for a row that is not met.
    """

    row: str
    mean: float | None = None
    spread: float | None = None
    verified: bool = True
    within: float | None = None
    deviations: float | None = None
    welch: bool = False
    missed: str | None = None


@dataclass(frozen=True)
class Claim:
    """A published statement about several rows.

    Args:
        text: in one sentence, as the table prints it.
        kind: ``"above"``: the 95 % interval of the first row's paired difference to the second lies above ``by``
            points; ``"alike"``: it lies within ``within`` points of 0; ``"crossing"``: the curve of the row's mean over
            strengths reaches ``level`` percent at log₁₀ strength ``log10`` ± ``within``; ``"crossings"``: the rows'
            curves reach it in this order, each at a higher strength than the one before.
        rows: of the baseline.
        by: see ``kind``.
        level: see ``kind``.
        log10: see ``kind``.
        within: see ``kind``.
        missed: why it does not hold here, and what was tried.
    """

    text: str
    kind: str
    rows: tuple[str, ...]
    by: float = 0.0
    level: float | None = None
    log10: float | None = None
    within: float | None = None
    missed: str | None = None


@dataclass(frozen=True)
class Published:
    """A published table.

    Args:
        name: of the baseline.
        title: what it is, in a few words.
        source: where it was printed.
        n: runs behind each of its figures.
        spread: what stands after its ±; None where nothing does.
        targets: its figures.
        claims: its statements.
        curve: row -> (log₁₀ strength -> percent), as read off a figure.
    """

    name: str
    title: str
    source: str
    n: int
    targets: tuple[Target, ...]
    claims: tuple[Claim, ...]
    curve: dict[str, dict[float, float]]
    spread: str | None = None


def published(file: Path = FILE) -> dict[str, Published]:
    """Every published table by the name of its baseline.

    Raises:
        ValueError: for a target without a criterion, or an entry that is misspelt.
    """
    with file.open("rb") as opened:
        tables = tomllib.load(opened)
    return {name: _table(name, about) for name, about in tables.items()}


def _table(name: str, about: dict[str, Any]) -> Published:
    criterion = about.pop("criterion", {})
    rows, claims, curve = about.pop("rows", {}), about.pop("claims", []), about.pop("curve", {})
    try:
        targets = tuple(_target(row, figures, criterion) for row, figures in rows.items())
        if about.get("spread") != "standard error" and any(target.welch for target in targets):
            raise TypeError("welch takes published standard errors: divide standard deviations by the root of n")
        said = tuple(Claim(**{**claim, "rows": tuple(claim["rows"])}) for claim in claims)
        read = {row: {float(power): figure for power, figure in points.items()} for row, points in curve.items()}
        return Published(name=name, targets=targets, claims=said, curve=read, **about)
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise ValueError(f"{FILE.name}, [{name}]: {error}") from error


def _target(row: str, figures: dict[str, Any], criterion: dict[str, Any]) -> Target:
    kinds = {"within", "deviations", "welch"}
    target = Target(row=row, **(figures if kinds & set(figures) else {**criterion, **figures}))
    if target.mean is not None and target.within is None and target.deviations is None and not target.welch:
        raise TypeError(f"row {row!r} has no criterion: one of {', '.join(sorted(kinds))}")
    return target
