"""Codes of 8 and 16 bits: how far they are off, what they keep exactly, and that they are as small as they say."""

import io
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from forgetting.curvature import Diagonal, restored
from forgetting.curvature.compressed import EightBit, SixteenBit, decompressed, dense, flat
from forgetting.curvature.stored import CompressedDiagonal

WORST = math.expm1(math.log(2**20 + 1) / 255 / 2) * 1.001  # half a step of the logarithmic code


def fisher_like(count, seed=0, octaves=40):
    """Importances over a huge range, some of them zero."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.exp2(-octaves * torch.rand(count, generator=generator))
    values[torch.rand(count, generator=generator) < 0.1] = 0.0
    return values


def peaks(values):
    """The largest of each number's 128 neighbours."""
    rows = torch.nn.functional.pad(values, (0, -len(values) % 128)).view(-1, 128)
    return rows.amax(1, keepdim=True).expand_as(rows).flatten()[: len(values)]


@pytest.mark.parametrize("count", [1, 127, 128, 129, 5000, 2**20 + 130])
@pytest.mark.parametrize("size", [1e-30, 1.0, 1e30])
def test_eight_bits_are_off_by_what_they_say(count, size):
    values = fisher_like(count) * size
    error = (EightBit.of(values).whole() - values).abs()
    assert (error <= WORST * (values + peaks(values) * 2.0**-20 + 2.0**-126)).all()
    if count >= 5000:
        assert error.max() > 0
        large = values > peaks(values) * 2.0**-10
        assert (error[large] / values[large]).mean() < 0.0145


def test_eight_bits_that_a_generator_rounds_are_unbiased():
    values = torch.full((2**16,), 0.3)
    values[::128] = 1.0
    kept = EightBit.of(values, torch.Generator().manual_seed(0)).whole()
    error = (kept - values)[values < 1] / 0.3
    assert error.abs().max() <= 2 * WORST
    assert error.unique().numel() == 2
    assert abs(error.mean()) < 1e-3


def test_zero_and_the_largest_stay_what_they_are():
    values = torch.tensor([0.0, 5.0, 0.0, torch.finfo(torch.float32).max, 1e-45])
    for generator in (None, torch.Generator().manual_seed(0)):
        kept = EightBit.of(values, generator).whole()
        assert torch.isfinite(kept).all()
        assert kept[[0, 2]].tolist() == [0.0, 0.0]
        assert kept[3] == pytest.approx(values[3].item(), rel=WORST)
    assert EightBit.of(torch.zeros(300)).whole().eq(0).all()


@given(st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=1, max_size=300), st.sampled_from([0, 1, 200]))
def test_the_number_that_was_stored_is_at_no_distance(numbers, zeros):
    weight = torch.tensor(numbers + [0.0] * zeros)
    kept = SixteenBit.of(weight)
    out, scratch = torch.empty_like(weight), torch.empty_like(weight)
    assert kept.difference(weight, out, scratch).eq(0).all()
    assert ((kept.whole() - weight).abs() <= 1.6e-5 * peaks(weight.abs()) + 2.0**-96).all()


def test_rounding_in_float32_does_not_leave_the_cell():
    weight = torch.randn(2**20, generator=torch.Generator().manual_seed(0))
    out = torch.empty_like(weight)
    assert SixteenBit.of(weight).difference(weight, out, torch.empty_like(weight)).eq(0).all()


@pytest.mark.parametrize("count", [5, 128, 1000])
def test_a_difference_is_too_small_by_at_most_a_cell(count):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(count, generator=generator)
    away = weight + 0.01 * torch.randn(count, generator=generator)
    out = SixteenBit.of(weight).difference(away, torch.empty(count), torch.empty(count))
    exact = away - weight
    assert ((out - exact).abs() <= 3.2e-5 * peaks(weight.abs()) + 1e-6).all()
    assert (out.abs() <= exact.abs() + 1e-6).all()


@pytest.mark.parametrize("kind", [EightBit, SixteenBit])
@pytest.mark.parametrize("make", [
    lambda: torch.rand(()), lambda: torch.rand(0), lambda: torch.rand(3, 0), lambda: torch.rand(7, 5).T,
    lambda: torch.rand(4, 3, 5, 5).contiguous(memory_format=torch.channels_last), lambda: torch.rand(10)[::2],
    lambda: torch.rand(1).expand(6), lambda: torch.rand(300, dtype=torch.float64),
])
def test_any_layout(kind, make):
    tensor = make()
    kept = kind.of(tensor)
    assert kept.whole().shape == tensor.shape
    torch.testing.assert_close(kept.whole(), tensor.float(), rtol=WORST, atol=1e-4)
    assert kept.codes.numel() == tensor.numel()
    if dense(tensor):
        assert kept.whole().stride() == tensor.stride()
        assert torch.equal(flat(tensor), tensor.as_strided((tensor.numel(),), (1,)))


@pytest.mark.parametrize("kind", [EightBit, SixteenBit])
def test_a_part_reads_as_the_whole_does(kind):
    kept = kind.of(torch.rand(1000))
    whole = kept.whole()
    for start, stop in ((0, 1000), (128, 256), (512, 1000), (896, 900)):
        assert torch.equal(kept.part(start, stop).read(torch.empty(stop - start)), whole[start:stop])


@pytest.mark.parametrize(("kind", "bits"), [(EightBit, 8), (SixteenBit, 16)])
def test_a_file_is_as_small_as_the_codes_and_gives_them_back(kind, bits):
    kept = kind.of(torch.rand(400, 256))
    assert kept.nbytes == 400 * 256 * bits // 8 + 4 * 800
    file = io.BytesIO()
    torch.save(kept.state_dict(), file)
    assert file.tell() < kept.nbytes + 4000
    file.seek(0)
    again = decompressed(torch.load(file, weights_only=True))
    assert type(again) is kind
    assert torch.equal(again.codes, kept.codes)
    assert torch.equal(again.whole(), kept.whole())


def test_a_compressed_diagonal_is_a_diagonal():
    plain = Diagonal({"a": torch.rand(40, 7), "b": torch.rand(())}, examples=5, labels="exact", routes={"a": "linear"})
    kept = CompressedDiagonal({name: EightBit.of(value) for name, value in plain.items()}, **plain.about())
    delta = {name: torch.randn(value.shape) for name, value in plain.items()}
    whole = Diagonal(dict(kept))
    assert float(kept.quadratic(delta)) == float(whole.quadratic(delta))
    assert float(kept.quadratic(delta)) == pytest.approx(float(plain.quadratic(delta)), rel=WORST)
    for name, value in kept.retract(delta, 2.0).items():
        assert torch.equal(value, whole.retract(delta, 2.0)[name])
    again = restored(kept.state_dict())
    assert type(again) is CompressedDiagonal
    assert (again.examples, again.labels, again.routes) == (5, "exact", {"a": "linear"})
    assert torch.equal(again["a"], kept["a"])
    assert kept.restricted(["b"]).to("cpu").names() == ("b",)
    assert type(kept.blend(plain, 0.5)) is Diagonal
    assert type(kept.scaled(2.0)) is Diagonal
    assert kept.trace() == pytest.approx(plain.trace(), rel=WORST)
