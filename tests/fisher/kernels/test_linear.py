"""The linear kernel against the sum over examples as it is written, in float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from forgetting.fisher.rules import linear as rule
from tests.interpreter import TOLERANCE, error, run

launch = pytest.importorskip("forgetting.fisher.kernels.launch", reason="Triton is not installed", exc_type=ImportError)

MEMORY = 2**20
PRODUCTS = "forgetting.fisher.kernels.linear.products"
LAUNCH = "forgetting.fisher.kernels.linear.launch"
DTYPES = st.sampled_from([torch.float32, torch.float16, torch.bfloat16])
# How [examples, positions, features] may lie in memory.
LAYOUTS = {
    "rows": lambda tensor: tensor,
    "features first": lambda tensor: tensor.transpose(1, 2).contiguous().transpose(1, 2),
    "positions first": lambda tensor: tensor.transpose(0, 1).contiguous().transpose(0, 1),
    "gaps": lambda tensor: torch.stack([tensor, tensor], 3)[..., 0],
    "one for all": lambda tensor: tensor[:, :1].expand_as(tensor),
}


def expected(x, g, power):
    """Σₙ |gₙᵀxₙ|^power."""
    total = torch.zeros(g.shape[2], x.shape[2], dtype=torch.float64)
    for one, gradient in zip(x.double(), g.double(), strict=True):
        total += (gradient.T @ one).abs() ** power
    return total


def drawn(examples, positions, columns, rows, dtype=torch.float32, seed=0):
    """x, g and a total that is not empty."""
    generator = torch.Generator().manual_seed(seed)
    sizes = (examples, positions, columns), (examples, positions, rows), (rows, columns)
    x, g, total = (torch.randn(size, generator=generator) for size in sizes)
    return x.to(dtype), g.to(dtype), total.abs()


@settings(max_examples=40)
@given(examples=st.integers(1, 4), positions=st.integers(1, 70), columns=st.integers(1, 70), rows=st.integers(1, 40),
       dtype=DTYPES, power=st.sampled_from([1, 2]), of_x=st.sampled_from(list(LAYOUTS)),
       of_g=st.sampled_from(list(LAYOUTS)), turned=st.booleans(), seed=st.integers(0, 99))
def test_it_equals_the_sum_and_the_rule(
        examples, positions, columns, rows, dtype, power, of_x, of_g, turned, seed):
    x, g, total = drawn(examples, positions, columns, rows, dtype, seed)
    x, g = LAYOUTS[of_x](x), LAYOUTS[of_g](g)
    total = total.T.contiguous().T if turned else total
    true = total + expected(x, g, power)
    found = run(PRODUCTS, x, g, total, power, MEMORY)[3]
    assert found.stride() == total.stride()
    assert error(found, true) < TOLERANCE[dtype]
    rule.products(x.float(), g.float(), total, power, MEMORY)
    assert error(found, total.double()) < 2 * TOLERANCE[torch.float32]


@settings(max_examples=25)
@given(examples=st.integers(1, 7), positions=st.integers(2, 50), columns=st.integers(1, 50), rows=st.integers(1, 40),
       tile=st.tuples(*[st.sampled_from([16, 32])] * 3), splits=st.integers(1, 7), power=st.sampled_from([1, 2]),
       dtype=DTYPES, total_type=st.sampled_from([torch.float32, torch.float64]))
def test_tiles_and_ranges_of_examples_add_up(
        examples, positions, columns, rows, tile, splits, power, dtype, total_type):
    x, g, total = drawn(examples, positions, columns, rows, dtype)
    total = total.to(total_type)
    true = total + expected(x, g, power)
    found = run(LAUNCH, x, g, total, power, launch.Tile(*tile), min(splits, examples))[3]
    assert error(found, true) < TOLERANCE[dtype]


@pytest.mark.parametrize("power", [1, 2])
def test_operands_of_two_types_meet_in_float32(power):
    x, g, total = drawn(3, 20, 18, 17)
    x, g = x.half(), g * 1e6
    assert error(run(PRODUCTS, x, g, total, power, MEMORY)[3], total + expected(x, g, power)) < TOLERANCE[g.dtype]


def test_the_same_call_gives_the_same_bits():
    x, g, total = drawn(6, 33, 40, 20, torch.bfloat16)
    first, again = (run(LAUNCH, x, g, total, 2, launch.Tile(16, 32, 16), 3)[3] for _ in range(2))
    assert torch.equal(first, again)


@pytest.mark.parametrize("shape", [(0, 3, 4, 5), (2, 0, 4, 5), (2, 3, 0, 5), (2, 3, 4, 0)])
def test_nothing_adds_nothing(shape):
    x, g, total = drawn(*shape)
    assert torch.equal(run(PRODUCTS, x, g, total, 2, MEMORY)[3], total)


class TestPlan:
    """Tiles and ranges, for a device of 132 multiprocessors."""

    @pytest.fixture(autouse=True)
    def device(self, monkeypatch):
        monkeypatch.setattr(launch, "processors", lambda device: 132)
        launch.plan.cache_clear()
        yield
        launch.plan.cache_clear()

    @staticmethod
    def of(examples, positions, rows, columns, memory=2**30, wide=False):
        return launch.plan(examples, positions, rows, columns, 1, wide, torch.device("meta"), memory)

    def test_few_tiles_are_split_and_many_are_not(self):
        tile, splits = self.of(64, 128, 256, 256)
        assert 100 <= splits * 256**2 // (tile.rows * tile.columns) <= 132
        assert self.of(8, 512, 8192, 8192)[1] == 1

    @pytest.mark.parametrize("memory", [0, 4 * 768 * 3072, 10 * 768 * 3072])
    def test_partial_sums_stay_in_the_memory(self, memory):
        assert self.of(64, 128, 3072, 768, memory)[1] * 4 * 768 * 3072 <= max(memory, 4 * 768 * 3072)

    def test_two_accumulators_fit_the_registers(self):
        tile, _ = self.of(64, 1024, 4096, 4096)
        assert (tile.rows, tile.columns, tile.depth, tile.warps) == (128, 128, 64, 8)
        assert self.of(64, 1024, 4096, 4096, wide=True)[0].depth == 32

    def test_small_sides_are_padded_to_what_the_matrix_units_take(self):
        assert self.of(4, 3, 10, 5)[0][:3] == (16, 16, 16)
