"""What is measured of a model and of a machine around the training of a task."""

from __future__ import annotations

import dataclasses
import datetime as dt
import hashlib
import importlib.metadata
import math
import platform
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import scipy
import torch
from torch import Tensor, nn

from forgetting.parameters import named
from forgetting.tasks import Examples, Task, TaskSequence, View

_SMALL = 2**22  # numbers: beyond a processor's cache a second copy of the inputs costs more than cutting them anew
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


class Cast(View):
    """Inputs that are numbers, in a model's dtype."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype

    def __call__(self, inputs: Tensor) -> Tensor:
        return inputs.to(self.dtype) if inputs.is_floating_point() else inputs

    def describe(self) -> str:
        return f"as {self.dtype}"

    def to(self, device: torch.device | str) -> Cast:
        return self


def placed(sequence: TaskSequence, device: torch.device | str, dtype: torch.dtype) -> TaskSequence:
    """The same sequence on a device, its inputs in a model's dtype; small parts are cut once, not at every batch."""

    def part(examples: Examples) -> Examples:
        moved = examples.viewed(Cast(dtype)).to(device)
        small = len(moved) * math.prod(moved.input_shape) <= _SMALL
        return Examples(moved.inputs, moved.targets) if small else moved

    tasks = tuple(Task(task.name, part(task.train), part(task.validation), part(task.test), task.outputs)
                  for task in sequence)
    return dataclasses.replace(sequence, tasks=tasks)


def running_statistics(model: nn.Module) -> dict[str, Tensor]:
    """Copies of the running statistics of a model's norm layers, by buffer name."""
    return {name: buffer.clone() for name, buffer in model.named_buffers() if name.rpartition(".")[2] in _STATISTICS}


def put_back(model: nn.Module, statistics: Mapping[str, Tensor]) -> None:
    """Overwrite running statistics with earlier ones."""
    buffers = dict(model.named_buffers())
    with torch.no_grad():
        for name, value in statistics.items():
            buffers[name].copy_(value)


def drift(model: nn.Module, given: Mapping[str, Tensor]) -> dict[str, float]:
    """Parameter name -> ‖θ − θ₀‖ / ‖θ₀‖, or ‖θ − θ₀‖ where θ₀ = 0."""
    found = {}
    for name, parameter in named(model, trainable=False).items():
        before = given[name].double()
        distance, size = float((parameter.detach().double() - before).norm()), float(before.norm())
        found[name] = distance / size if size else distance
    return found


def weights_fingerprint(model: nn.Module) -> str:
    """16 hexadecimal digits over a model's architecture, weights and buffers."""
    digest = hashlib.sha256(repr(model).encode())
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def clock(device: torch.device | str) -> float:
    """Seconds, once the device has done what it was given."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


class Peak:
    """Inside a ``with`` block: the peak of allocated GPU memory, or the growth of the process's resident set."""

    def __init__(self, device: torch.device | str) -> None:
        self.device = torch.device(device)
        self.bytes = 0

    def __enter__(self) -> Peak:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            self._start = largest_resident_set()
        return self

    def __exit__(self, *_: object) -> None:
        on_gpu = self.device.type == "cuda"
        self.bytes = (torch.cuda.max_memory_allocated(self.device) if on_gpu
                      else largest_resident_set() - self._start)


def largest_resident_set() -> int:
    """Bytes of memory the process held when it held most; 0 on systems that do not say."""
    status = Path("/proc/self/status")  # the same without what the parent held when it forked, where there is one
    if status.exists():
        peak = next((line for line in status.read_text().splitlines() if line.startswith("VmHWM:")), None)
        if peak is not None:
            return 1024 * int(peak.split()[1])
    try:
        import resource
    except ImportError:  # Windows
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def provenance(device: torch.device | str, seed: int, fingerprint: str) -> dict[str, Any]:
    """Where and with what a run was made."""
    try:
        version = importlib.metadata.version("forgetting")
    except importlib.metadata.PackageNotFoundError:
        version = "not installed"
    on_gpu = torch.device(device).type == "cuda"
    return {
        "versions": {"forgetting": version, "torch": torch.__version__, "numpy": np.__version__,
                     "scipy": scipy.__version__, "python": platform.python_version()},
        "platform": platform.platform(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if on_gpu else platform.processor() or platform.machine(),
        "seed": seed,
        "data": fingerprint,
        "finished": dt.datetime.now(dt.timezone.utc).isoformat(),
    }
