"""The convolution kernels against autograd, an example at a time, in float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from forgetting.fisher.rules import conv as rule
from forgetting.fisher.rules.conv import Geometry
from tests.interpreter import TOLERANCE, error, run

launch = pytest.importorskip("forgetting.fisher.kernels.launch", reason="Triton is not installed", exc_type=ImportError)

MEMORY = 2**20
PRODUCTS = "forgetting.fisher.kernels.conv.products"
LAUNCH = "forgetting.fisher.kernels.conv.launch"
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
FORWARD = {3: functional.conv1d, 4: functional.conv2d, 5: functional.conv3d}
TRANSPOSED = {3: functional.conv_transpose1d, 4: functional.conv_transpose2d, 5: functional.conv_transpose3d}


def expected(x, g, shape, geometry, power, functions=FORWARD, **options):
    """Σ over examples of |the weight gradient that autograd finds|^power."""
    total = torch.zeros(shape, dtype=torch.float64)
    for images, gradient in zip(x.double(), g.double(), strict=True):
        weight = torch.zeros(shape, dtype=torch.float64, requires_grad=True)
        y = functions[len(shape)](images, weight, stride=geometry.stride, padding=geometry.padding,
                                  dilation=geometry.dilation, groups=geometry.groups, **options)
        total += torch.autograd.grad(y, weight, gradient)[0].abs() ** power
    return total


def channels_last(tensor):
    """[n, r, c, …] with c side by side."""
    return tensor.movedim(2, -1).contiguous().movedim(-1, 2)


def drawn(examples, images, channels, rows, size, kernel, geometry, dtype, last, seed=0):
    """x, g and a total that is not empty, of a convolution with this geometry."""
    out = [(side + 2 * pad - spread * (reach - 1) - 1) // step + 1
           for side, reach, step, pad, spread in zip(size, kernel, *geometry[:3], strict=True)]
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(examples, images, channels, *size, generator=generator).to(dtype)
    g = torch.randn(examples, images, rows, *out, generator=generator).to(dtype)
    total = torch.rand(rows, channels // geometry.groups, *kernel, generator=generator)
    return (channels_last(x), channels_last(g), total) if last else (x, g, total)


@st.composite
def convolutions(draw, dimensions, most):
    """Arguments of ``drawn``: up to ``most`` channels a group, every side its own kernel, stride, padding, dilation."""
    def sides(low, high):
        return tuple(draw(st.lists(st.integers(low, high), min_size=dimensions, max_size=dimensions)))

    groups = draw(st.sampled_from([1, 1, 2, 3]))
    kernel, stride, padding, dilation = sides(1, 3), sides(1, 3), sides(0, 2), sides(1, 2)
    channels, rows = groups * draw(st.integers(1, most)), groups * draw(st.integers(1, most))
    least = [max(1, spread * (reach - 1) + 1 - 2 * pad)
             for reach, pad, spread in zip(kernel, padding, dilation, strict=True)]
    size = tuple(low + more for low, more in zip(least, sides(0, 6 if dimensions < 3 else 3), strict=True))
    return (draw(st.integers(1, 3)), draw(st.integers(1, 2)), channels, rows, size, kernel,
            Geometry(stride, padding, dilation, groups), draw(st.sampled_from(DTYPES)), draw(st.booleans()),
            draw(st.integers(0, 99)))


def check(case, power, memory=MEMORY):
    """Equal to autograd's, and to the rule's."""
    x, g, total = drawn(*case)
    geometry, dtype = case[6:8]
    true = total + expected(x, g, total.shape, geometry, power)
    assert error(run(PRODUCTS, x, g, total, geometry, power, memory)[3], true) < TOLERANCE[dtype]
    rule.products(x.float(), g.float(), total, geometry, power, memory)
    assert error(total, true) < TOLERANCE[torch.float32]


@settings(max_examples=25)
@given(case=st.integers(1, 2).flatmap(lambda dimensions: convolutions(dimensions, 20)), power=st.sampled_from([1, 2]))
def test_lines_and_images(case, power):
    check(case, power)


@settings(max_examples=10)
@given(case=convolutions(3, 4), power=st.sampled_from([1, 2]))
def test_volumes(case, power):
    check(case, power)


@settings(max_examples=12)
@given(case=convolutions(2, 1), power=st.sampled_from([1, 2]), channels=st.integers(2, 20), multiple=st.integers(1, 2))
def test_one_channel_a_group(case, power, channels, multiple):
    geometry = case[6]._replace(groups=channels)
    check((*case[:2], channels, channels * multiple, *case[4:6], geometry, *case[7:]), power)


@settings(max_examples=8)
@given(dtype=st.sampled_from(DTYPES), last=st.booleans(), images=st.integers(1, 2), stride=st.integers(1, 3),
       padding=st.integers(0, 1))
def test_one_tap(dtype, last, images, stride, padding):
    geometry = Geometry((stride, 1), (padding, padding), (1, 1), 1)
    check((3, images, 17, 5, (6, 5), (1, 1), geometry, dtype, last), 2)


@settings(max_examples=10)
@given(case=convolutions(2, 40), tile=st.tuples(*[st.sampled_from([16, 32])] * 3), splits=st.integers(1, 3),
       power=st.sampled_from([1, 2]))
def test_tiles_and_ranges_of_examples_add_up(case, tile, splits, power):
    x, g, total = drawn(*case)
    true = total + expected(x, g, total.shape, case[6], power)
    found = run(LAUNCH, x, g, total, launch.Plane(*case[6]), power, launch.Tile(*tile), min(splits, len(x)))[3]
    assert error(found, true) < TOLERANCE[case[7]]


@pytest.mark.parametrize("dimensions", [1, 2, 3])
@pytest.mark.parametrize("groups", [1, 2])
def test_a_transposed_convolution_has_its_roles_swapped(dimensions, groups):
    geometry = Geometry((2,) * dimensions, (1,) * dimensions, (1,) * dimensions, groups)
    x, shape = torch.randn(2, 2, 4, *(3,) * dimensions), (4, 6 // groups, *(3,) * dimensions)
    like = TRANSPOSED[dimensions + 2](x[0], torch.zeros(shape), stride=2, padding=1, output_padding=1, groups=groups)
    g, total = torch.randn(2, *like.shape), torch.zeros(shape)
    true = expected(x, g, shape, geometry, 2, TRANSPOSED, output_padding=1)
    assert error(run(PRODUCTS, g, x, total, geometry, 2, MEMORY)[3], true) < TOLERANCE[torch.float32]


@pytest.mark.parametrize("memory", [0, 3000])
def test_little_memory_cuts_the_copy_by_examples(memory):
    geometry = Geometry((1, 1), (1, 1), (1, 1), 1)
    check((4, 1, 17, 16, (5, 4), (3, 3), geometry, torch.float32, False), 2, memory)


def test_a_total_may_lie_in_any_order():
    geometry = Geometry((1, 1), (1, 1), (1, 1), 1)
    x, g, total = drawn(2, 1, 4, 6, (5, 4), (3, 3), geometry, torch.float32, False)
    true = total + expected(x, g, total.shape, geometry, 2)
    for found in (total.to(memory_format=torch.channels_last), total.transpose(0, 1).contiguous().transpose(0, 1)):
        assert error(run(PRODUCTS, x, g, found, geometry, 2, MEMORY)[3], true) < TOLERANCE[torch.float32]


def test_the_same_call_gives_the_same_bits():
    geometry = Geometry((1, 1), (1, 1), (1, 1), 1)
    x, g, total = drawn(4, 1, 3, 6, (6, 7), (3, 3), geometry, torch.bfloat16, False)
    plane, tile = launch.Plane(*geometry), launch.Tile(16, 16, 16)
    first, again = (run(LAUNCH, x, g, total, plane, 2, tile, 2)[3] for _ in range(2))
    assert torch.equal(first, again)


def test_no_example_adds_nothing():
    geometry = Geometry((1, 1), (1, 1), (1, 1), 1)
    total = torch.ones(4, 3, 3, 3)
    x, g = torch.zeros(0, 1, 3, 5, 5), torch.zeros(0, 1, 4, 5, 5)
    assert torch.equal(run(PRODUCTS, x, g, total, geometry, 2, MEMORY)[3], total)
