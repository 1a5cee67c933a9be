"""When the kernels are asked, and that nobody loads Triton before."""

import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from forgetting.fisher import kernels

QUIET = "import sys, forgetting.fisher.kernels as k, torch; k.serve(torch.ones(1)); assert 'triton' not in sys.modules"


@pytest.mark.parametrize(("cuda", "dtypes", "installed", "served"), [
    (True, [torch.float32, torch.bfloat16], True, True),
    (False, [torch.float32], True, False),
    (True, [torch.float64], True, False),
    (True, [torch.float32, torch.float64], True, False),
    (True, [torch.float32], False, False),
])
def test_cuda_tensors_of_their_types_where_triton_is_installed(monkeypatch, cuda, dtypes, installed, served):
    monkeypatch.setattr(kernels, "_installed", lambda: installed)
    assert kernels.serve(*(SimpleNamespace(is_cuda=cuda, dtype=dtype) for dtype in dtypes)) is served


def test_asking_does_not_load_triton():
    subprocess.run([sys.executable, "-c", QUIET], check=True, timeout=120)
