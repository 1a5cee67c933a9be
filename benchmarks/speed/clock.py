"""Interleaved rounds in one process: what is compared is timed side by side, and stated as a ratio.

On a CPU the time is this process's CPU time, all threads together; on a GPU the time between two events on its stream.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping

import torch

Times = dict[str, list[float]]


def seconds(function: Callable[[], object], device: str) -> float:
    """What one call takes."""
    if device == "cpu":
        before = time.process_time()
        function()
        return time.process_time() - before
    first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    first.record()
    function()
    last.record()
    torch.cuda.synchronize()
    return first.elapsed_time(last) / 1000


def interleave(candidates: Mapping[str, Callable[[], object]], rounds: int, device: str = "cpu") -> Times:
    """Seconds of every candidate in every round, after one that does not count; every other one runs backwards."""
    times: Times = {name: [] for name in candidates}
    for number in range(-1, rounds):
        gc.collect()
        for name in list(candidates)[:: 1 if number % 2 else -1]:
            taken = seconds(candidates[name], device)
            if number >= 0:
                times[name].append(taken)
    return times


def ratio(times: Times, name: str, to: str, scale: float = 1.0) -> dict[str, float]:
    """Median and quartiles over the rounds of one candidate's time ÷ another's, times ``scale``."""
    values = [scale * above / below for above, below in zip(times[name], times[to], strict=True)]
    return spread(values)


def spread(values: list[float]) -> dict[str, float]:
    """Median and quartiles."""
    if len(values) < 2:
        return {"median": values[0], "lower": values[0], "upper": values[0]}
    lower, median, upper = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": round(median, 4), "lower": round(lower, 4), "upper": round(upper, 4)}
