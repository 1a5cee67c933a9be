"""Every kernel compiles for devices that are not here, and holds what it accumulates in registers."""

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed", minversion="3.4")

from benchmarks.speed import ahead, kernels
from forgetting.fisher.kernels import launch


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    if not (ahead.TOOLS / "cuobjdump").exists():
        pytest.skip("this Triton brings no disassembler")
    if launch.INTERPRETED:
        pytest.skip("TRITON_INTERPRET is set: nothing is compiled")


def linear(dtype):
    return kernels.linear_case("linear", *kernels.LINEAR["BERT-base, widening"], dtype, "meta", tiles=False)


def conv(name, dtype):
    return kernels.conv_case(name, *kernels.CONV[name], dtype, "meta", tiles=False)


def embedding(dtype):
    return kernels.embedding_case("embedding", 4, 16, 2, 64, dtype, "meta")


def penalty(dtype):
    return kernels.penalty_case("penalty", *kernels.PENALTY["11 M in 62"], dtype, "meta")


BF16, FLOAT = torch.bfloat16, torch.float32
COMPILED = [
    (90, "wgmma.mma_async", lambda: linear(BF16)),
    (90, "wgmma.mma_async", lambda: linear(FLOAT)),
    (90, "wgmma.mma_async", lambda: conv("ResNet, 256 at 14", BF16)),
    (90, "wgmma.mma_async", lambda: conv("ResNet, first", FLOAT)),
    (90, "", lambda: conv("EfficientNet, depthwise", BF16)),
    (90, "", lambda: embedding(BF16)),
    (90, "", lambda: penalty(BF16)),
    (80, "mma.sync", lambda: linear(BF16)),
    (80, "mma.sync", lambda: conv("ResNet, first", BF16)),
]


@pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION")
@pytest.mark.parametrize(("capability", "unit", "made"), COMPILED)
def test_it_compiles_on_the_right_units_within_its_registers(capability, unit, made):
    case = made()
    with ahead.compiling(capability) as found:
        case.kernel()
    assert {(one.matrix_unit, one.stack) for one in found} == {(unit, 0)}
