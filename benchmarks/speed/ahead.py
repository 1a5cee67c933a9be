"""Kernels compiled for a device that is not here: what each takes of its registers and shared memory."""

from __future__ import annotations

import contextlib
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple
from unittest import mock

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from forgetting.fisher.kernels.launch import plan, processors

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
PROCESSORS = {80: 108, 90: 132}  # of an A100 and an H100: by these the launches choose their tiles


class Compiled(NamedTuple):
    """One kernel as it was compiled, and the grid it would have run on."""

    kernel: str
    grid: tuple[int, ...]
    warps: int
    stages: int
    registers: int
    stack: int
    shared: int
    matrix_unit: str

    @classmethod
    def of(cls, kernel: object, grid: tuple[int, ...]) -> Compiled:
        """Read from the binary by the disassembler that Triton brings along."""
        usage, assembly = _usage(kernel.asm["cubin"]), kernel.asm["ptx"]
        unit = re.search(r"wgmma\.mma_async|mma\.sync", assembly)
        return cls(kernel.metadata.name, grid, kernel.metadata.num_warps, kernel.metadata.num_stages,
                   usage["REG"], usage["STACK"], kernel.metadata.shared, unit[0] if unit else "")


class _Absent:
    """A driver of a device that is only compiled for; its number keeps its kernels apart from a real device's."""

    def __init__(self, capability: int) -> None:
        self._target = GPUTarget("cuda", capability, 32)

    def get_current_device(self) -> int:
        return 1000 + self._target.arch

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return self._target


@contextlib.contextmanager
def compiling(capability: int) -> Iterator[list[Compiled]]:
    """Inside, a launch on tensors of any device compiles for sm_``capability`` and runs nothing.

    The list says what was compiled, launch by launch. Tensors on the meta device take no memory.
    """
    found: list[Compiled] = []
    run = JITFunction.run

    def compile_only(self, *args, grid, **options):
        kernel = run(self, *args, grid=grid, **{**options, "warmup": True})
        found.append(Compiled.of(kernel, tuple(grid)))
        return kernel

    properties = SimpleNamespace(multi_processor_count=PROCESSORS[capability])
    driver.set_active(_Absent(capability))
    try:
        with mock.patch.object(JITFunction, "run", compile_only), \
                mock.patch.object(torch.cuda, "get_device_properties", return_value=properties):
            yield found
    finally:
        driver._active = None  # the real one, if there is any, is found again at the next launch
        processors.cache_clear()
        plan.cache_clear()


def _usage(cubin: bytes) -> dict[str, int]:
    """REG, STACK and so on of a binary with one kernel."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [TOOLS / "cuobjdump", "-res-usage", file.name]
        said = subprocess.run(command, check=True, capture_output=True, text=True)
    return {name: int(number) for name, number in re.findall(r"(\w+):(\d+)", said.stdout)}
