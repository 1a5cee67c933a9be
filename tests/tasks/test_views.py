"""Views: permutations are bijections, rotations turn the way they say, channels are standardised one by one."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from forgetting.tasks import Permutation, Rotation, Standardized


def images(count=3, channels=2, height=5, width=5):
    return torch.rand(count, channels, height, width, generator=torch.Generator().manual_seed(0))


@given(st.permutations(range(16)))
def test_a_permutation_loses_nothing_and_can_be_undone(order):
    order = torch.tensor(order)
    inputs = images(height=4, width=4)
    seen = Permutation(order)(inputs)
    assert torch.equal(Permutation(order.argsort())(seen), inputs)
    assert torch.equal(seen[1, 1].flatten(), inputs[1, 1].flatten()[order])


def test_a_permutation_takes_features_and_images_without_channels():
    order = torch.tensor([3, 2, 1, 0])
    inputs = torch.arange(8.0).view(2, 4)
    assert torch.equal(Permutation(order)(inputs), inputs.flip(1))
    assert torch.equal(Permutation(order)(inputs.view(2, 2, 2)), inputs.flip(1).view(2, 2, 2))


@pytest.mark.parametrize("order", [[0, 0, 1], [1, 2, 3]])
def test_what_is_no_permutation_is_refused(order):
    with pytest.raises(ValueError, match="no permutation"):
        Permutation(torch.tensor(order))


def test_an_order_of_the_wrong_kind_is_refused():
    with pytest.raises(ValueError, match="a row of int64"):
        Permutation(torch.tensor([0.0, 1.0]))
    with pytest.raises(ValueError, match="one of 4 pixels, the inputs have 25"):
        Permutation(torch.arange(4))(images())


@pytest.mark.parametrize("turns", [-1, 0, 1, 2, 3, 4])
def test_quarter_turns_are_exact_and_equal_the_limit_of_the_bilinear_ones(turns):
    inputs = images()
    assert torch.equal(Rotation(90 * turns)(inputs), torch.rot90(inputs, turns, (-2, -1)))
    torch.testing.assert_close(Rotation(90 * turns + 1e-4)(inputs), Rotation(90 * turns)(inputs), atol=1e-4, rtol=0)


@pytest.mark.parametrize(("height", "width"), [(9, 9), (9, 15), (21, 14)])
def test_a_rotation_turns_counter_clockwise_by_its_angle_whatever_the_shape(height, width):
    inputs = torch.zeros(1, 1, height, width)
    row, column = (height - 1) / 2, (width - 1) / 2
    for dx, dy in ((3.0, 0.0), (0.0, 3.0)):
        inputs.zero_()
        rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        inputs[0, 0] = torch.exp(-((rows - row + dy) ** 2 + (columns - column - dx) ** 2) / 2)
        seen = Rotation(30)(inputs)[0, 0]
        mass = seen.sum()
        x = float((seen * columns).sum() / mass) - column
        y = row - float((seen * rows).sum() / mass)
        angle = math.radians(30)
        wanted = (dx * math.cos(angle) - dy * math.sin(angle), dx * math.sin(angle) + dy * math.cos(angle))
        assert (x, y) == pytest.approx(wanted, abs=0.15)


def test_an_image_is_turned_alone_whatever_batch_it_is_in():
    inputs = images(count=9)
    turned = Rotation(37)(inputs)
    torch.testing.assert_close(torch.cat([Rotation(37)(image[None]) for image in inputs]), turned, atol=1e-6, rtol=0)


@pytest.mark.parametrize("degrees", [13.7, 60.3, 133.3, 271.0])
def test_the_nearest_pixel_is_taken_where_that_is_asked_for(degrees):
    """Pixel by pixel: back by the angle about the centre, y downwards, and the pixel whose square that falls into."""
    inputs, (height, width) = images(height=8, width=6), (8, 6)
    angle, expected = math.radians(degrees), torch.zeros_like(inputs)
    for row in range(height):
        for column in range(width):
            x, y = column + 0.5 - width / 2, row + 0.5 - height / 2
            across = math.floor(math.cos(angle) * x - math.sin(angle) * y + width / 2)
            down = math.floor(math.sin(angle) * x + math.cos(angle) * y + height / 2)
            if 0 <= across < width and 0 <= down < height:
                expected[..., row, column] = inputs[..., down, across]
    assert torch.equal(Rotation(degrees, "nearest")(inputs), expected)
    assert not torch.equal(Rotation(degrees)(inputs), expected)
    assert Rotation(degrees, "nearest").describe() != Rotation(degrees).describe()


def test_rotations_of_what_is_no_image_are_refused():
    with pytest.raises(ValueError, match=r"images \[n, channels, height, width\], not inputs of shape \(3, 4\)"):
        Rotation(90)(torch.zeros(3, 4))
    with pytest.raises(ValueError, match="finite angle"):
        Rotation(float("nan"))
    with pytest.raises(ValueError, match="interpolation='bicubic'; expected 'bilinear' or 'nearest'"):
        Rotation(30, "bicubic")


def test_each_channel_has_constants_of_its_own():
    inputs = images()
    seen = Standardized([0.25, 0.5], [0.5, 4.0])(inputs)
    assert torch.equal(seen[:, 0], (inputs[:, 0] - 0.25) / 0.5)
    assert torch.equal(seen[:, 1], (inputs[:, 1] - 0.5) / 4)
    assert torch.equal(Standardized([0.25, 0.5], [0.5, 4.0])(inputs.flatten(2)), seen.flatten(2))
    assert torch.equal(Standardized([0.25, 0.5], [0.5, 4.0]).to("cpu")(inputs), seen)


def test_standardising_is_described_by_its_constants():
    views = (Standardized([0.1], [0.2]), Standardized([0.2], [0.2]), Standardized([0.1], [0.1]))
    assert len({view.describe() for view in views}) == 3
    assert views[0].describe() == views[0].to("cpu").describe() == "standardized (0.1,) (0.2,)"


@pytest.mark.parametrize(("means", "deviations"), [
    ([0.1], [0.0]), ([0.1], [-1.0]), ([0.1, 0.2], [1.0]), ([], []), ([float("inf")], [1.0]), ([0.1], [float("nan")]),
])
def test_constants_that_make_no_sense_are_refused(means, deviations):
    with pytest.raises(ValueError, match="one finite mean and one finite deviation above 0 a channel"):
        Standardized(means, deviations)


def test_constants_of_other_channels_are_refused():
    with pytest.raises(ValueError, match=r"constants of 3 channels do not suit inputs of shape \(2, 5, 5\)"):
        Standardized([0.1] * 3, [1.0] * 3)(images())
    with pytest.raises(ValueError, match="first dimension is the channel"):
        Standardized([0.1], [1.0])(torch.zeros(3))


def test_views_leave_what_comes_as_it_is():
    inputs = images()
    for view in (Rotation(0), Rotation(90), Rotation(20), Permutation(torch.arange(25).flip(0)),
                 Standardized([0.1, 0.2], [0.3, 0.4])):
        view(inputs).zero_()
    assert torch.equal(inputs, images())
