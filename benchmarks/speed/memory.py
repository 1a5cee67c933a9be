"""Peak memory above the level before a call, in bytes of torch's own allocator.

On a CPU every block that torch allocates is listed by its profiler, with the bytes live at that moment: the peak is
exact and the same in every run, temporary blocks inside an operation and oneDNN's scratch pads included. The resident
set would also count pages that the C library keeps after a block is freed, code paged in, and the profiler itself.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch


def peak(function: Callable[[], object], device: str = "cpu") -> int:
    """The most bytes that were live during a call, above those before it."""
    if device == "cpu":
        return _profiled(function)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    function()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def _profiled(function: Callable[[], object]) -> int:
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        function()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "trace.json"
        profile.export_chrome_trace(str(file))
        events = json.loads(file.read_text(encoding="utf-8"))["traceEvents"]
    live = [(event["args"]["Total Allocated"], event["args"]["Bytes"])
            for event in sorted((event for event in events if event.get("name") == "[memory]"), key=lambda e: e["ts"])]
    if not live:
        return 0
    total, first = live[0]
    return max(max(total for total, _ in live) - (total - first), 0)
