"""The results file: one JSON, an entry a measurement, all made in one environment; written after every entry."""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import platform
from pathlib import Path

import torch

RESULTS = Path(__file__).with_name("results")
PACKAGES = ("torch", "torchvision", "timm", "transformers", "numpy")


def environment(device: str, threads: int) -> dict[str, object]:
    """Where and with what: only results of one environment share a file."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    found: dict[str, object] = {
        "device": device, "processor": _processor(), "cores": os.cpu_count(), "threads": threads,
        "system": f"{platform.system()} {platform.machine()}", "python": platform.python_version(),
        "versions": versions, "oneDNN": torch.backends.mkldnn.is_available()}
    if device == "cuda":
        found |= {"gpu": torch.cuda.get_device_name(), "cuda": torch.version.cuda,
                  "float32_matmul_precision": torch.get_float32_matmul_precision()}
    return found


def _processor() -> str:
    """The processor's own name, where the system tells it."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


class Store:
    """Entries by key, in the order in which they came; ``fresh`` starts the file over."""

    def __init__(self, file: Path, found: dict[str, object], fresh: bool = False) -> None:
        self.file, self.environment, self.entries = file, found, {}
        if fresh or not file.exists():
            return
        kept = read(file)
        if kept["environment"] != found:
            other = {key: kept["environment"].get(key) for key in found if kept["environment"].get(key) != found[key]}
            raise ValueError(f"{file} was made elsewhere, with {other}: name another file (--out), or start it over "
                             "(--fresh)")
        self.entries = kept["entries"]

    def add(self, key: str, entry: dict[str, object]) -> None:
        """Keep an entry and write the file."""
        self.entries[key] = _finite(entry)
        self.file.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"environment": self.environment, "entries": self.entries}, indent=1)
        part = self.file.with_suffix(".part")
        part.write_text(text + "\n", encoding="utf-8")
        part.replace(self.file)


def _finite(value: object) -> object:
    """JSON knows no NaN and no infinity: null stands for them."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read(file: Path) -> dict:
    """A results file."""
    return json.loads(file.read_text(encoding="utf-8"))
