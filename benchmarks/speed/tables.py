"""Entries as Markdown tables; ✓ and ✗ say whether what is promised holds, on what was measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from benchmarks.speed.exact import MUST
from benchmarks.speed.peers import PEERS

Entries = Mapping[str, Mapping]


def lines(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table."""
    head = list(head)
    return "".join("| " + " | ".join(row) + " |\n" for row in [head, ["---"] * len(head), *rows])


def mark(holds: bool) -> str:
    """Kept or not."""
    return "✓" if holds else "✗"


def spread(found: Mapping[str, float] | None) -> str:
    """Median and quartiles."""
    return "–" if found is None else "{median:.2f} ({lower:.2f}–{upper:.2f})".format(**found)


def small(value: float | None) -> str:
    """A relative error; null stands for NaN."""
    return "NaN" if value is None else f"{value:.0e}" if value < 0.01 else f"{value:.2f}"


def peak_ratio(entry: Mapping, what: str = "diagonal") -> float | None:
    """Peak memory ÷ forward+backward's."""
    peaks = {name: found.get("bytes") for name, found in entry.get("peaks", {}).items()}
    return peaks[what] / peaks["forward+backward"] if peaks.get(what) and peaks.get("forward+backward") else None


def _memory(entry: Mapping) -> str:
    found, must = peak_ratio(entry), entry.get("memory_must")
    if found is None:
        return "–"
    grown = peak_ratio(entry, "stream") or found
    still = "" if grown <= found * 1.001 else f"; over four batches {grown:.2f} ✗"
    return f"{found:.2f} {'' if must is None else mark(round(found, 2) <= must)}".strip() + still


def _error(error: Mapping) -> str:
    """The worst tensor's, whether it is allowed, and the float32 loop's."""
    holds = error["worst"] is not None and error["worst"] <= error["allowed"]
    return f"{small(error['worst'])} {mark(holds)} (loop {small(error['loop'])})"


def empirical(entries: Entries) -> str:
    """Time, memory and error of every row against what is promised."""
    rows = []
    for entry in entries.values():
        if "time" not in entry:
            rows.append([entry.get("title", "?"), entry["exception"], *[""] * 8])
            continue
        time, error = entry["time"], entry["error"]
        slow = sorted(kind for kind in entry["routes"] if kind in ("vmap", "loop"))
        rows.append([
            entry["title"], f"{entry['forward_backward_seconds'] * 1e3:.0f}",
            f"{spread(time)} {mark(round(time['median'], 2) <= entry['must'])}", f"{entry['must']:.2f}",
            "–" if entry["aim"] is None else f"{entry['aim']:.2f}", spread(entry["time_of_one_batch"]),
            _memory(entry), "–" if entry["memory_must"] is None else f"{entry['memory_must']:.1f}",
            _error(error), small(error["float64"]), ", ".join(slow) or "none"])
    return lines(["model, batch", "forward+backward, ms", "time ÷ forward+backward", "must", "aim", "one batch alone",
                  "peak memory ÷", "must", "worst error", "in float64", "fallbacks"], rows) if rows else ""


def _peer(entry: Mapping | None) -> str:
    """One cell: a ratio, or how it failed."""
    if entry is None:
        return "–"
    if entry["status"] == "right":
        return f"{entry['time']['median']:.2f}"
    return f"wrong {small(entry['error']['whole'])}" if entry["status"] == "wrong" else "crash"


def _beaten(cells: Iterable[Mapping]) -> str:
    """Whether ours was faster than every right one, each in one run, and the nearest."""
    right = [entry for entry in cells if entry["status"] == "right"]
    if not right:
        return "no other is right"
    nearest = min(right, key=lambda entry: entry["to_ours"]["median"])
    found = nearest["to_ours"]["median"]
    return f"{found:.2f} × {mark(found >= 1)} ({nearest['title']})"


def peers(entries: Entries, ours: Entries) -> str:
    """Time ÷ forward+backward of every library on every row; below it the words of what crashed."""
    names = [name for name in ours or {} if any(key.startswith(f"{name}/") for key in entries)]
    if not names:
        return ""
    present = [peer for peer in PEERS if any(key.endswith(f"/{peer}") for key in entries)]
    rows = []
    for name in names:
        cells = {peer: entries.get(f"{name}/{peer}") for peer in present}
        rows.append([ours[name]["title"], f"{ours[name]['time']['median']:.2f}", *map(_peer, cells.values()),
                     _beaten(entry for entry in cells.values() if entry)])
    found = {peer: next(entry for key, entry in entries.items() if key.endswith(f"/{peer}")) for peer in present}
    heads = [entry["title"] + f" {entry['version']}" * (entry["package"] != "torch") for entry in found.values()]
    words = [f"- {entry['title']} on {key.partition('/')[0]}: `{entry['exception'].replace('`', chr(39))}`\n"
             for key, entry in entries.items() if entry["status"] == "crash"]
    table = lines(["model, batch", "this library", *heads, "nearest right one ÷ ours, in one run"], rows)
    return table + ("\nWhat the crashes said:\n\n" + "".join(words) if words else "")


def exact(entries: Entries, others: Entries) -> str:
    """Exact labels, with and without tolerance, beside a backward a class and the other libraries."""
    rows = []
    for name, entry in entries.items():
        for tolerance, found in entry["tolerances"].items():
            rows.append([entry["title"], f"tolerance {tolerance}", spread(found["time"]),
                         spread(found["to_class_backwards"]), small(found["error"]["whole"]),
                         _exact_promise(name, tolerance, found)])
        rows.append([entry["title"], "a backward a class, nothing squared", spread(entry["class_backwards"]), "1", "",
                     ""])
        for other in (other for key, other in others.items() if key.startswith(f"{name}/")):
            taken = spread(other["time"]) if other["status"] == "right" else other["status"]
            whole = small(other["error"]["whole"]) if "error" in other else "–"
            rows.append([entry["title"], f"{other['title']} {other['version']}", taken, "–", whole, ""])
    return lines(["model", "what", "time ÷ forward+backward", "÷ a backward a class", "error", "promise"],
                 rows) if rows else ""


def _exact_promise(name: str, tolerance: str, found: Mapping) -> str:
    if name != "mlp-confident":
        return f"≤ 1 backward a class {mark(found['to_class_backwards']['median'] <= 1)}"
    bound = MUST["all"] if tolerance == "0" else MUST["tolerance"]
    said = f"≤ {bound} {mark(found['time']['median'] <= bound)}"
    if tolerance != "0":
        whole = found["error"]["whole"]
        said += f", error ≤ {MUST['error']:g} {mark(whole is not None and whole <= MUST['error'])}"
    return said


def kronecker(entries: Entries) -> str:
    """K-FAC and EK-FAC."""
    rows = [[entry["title"], spread(entry["time"]), spread(entry.get("ekfac")),
             small(entry["trace_error"]) if "trace_error" in entry else "–", str(entry["longest_side"])]
            for entry in entries.values() if "time" in entry]
    return lines(["model, batch", "K-FAC ÷ forward+backward", "EK-FAC ÷", "trace of EK-FAC against the diagonal's sum",
                  "longest side"], rows) if rows else ""


def environment(found: Mapping) -> str:
    """Where and with what, in a line."""
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items() if version)
    where = found.get("gpu") or f"{found['processor']}, {found['cores']} cores"
    return (f"- {found['device']}: {where}, {found['threads']} threads; {found['system']}, Python {found['python']}, "
            f"{versions}\n")
