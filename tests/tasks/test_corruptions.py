"""Corrupted images: each kind against a slow computation of it, noise that is an image's own, wrong words."""

import math

import pytest
import torch
from torch.nn import functional

from forgetting.tasks import Examples, corrupted
from forgetting.tasks.corruptions import KINDS
from tests.tasks.images import examples

SIDE = 56


@pytest.fixture
def clean():
    some = examples(count=5, shape=(3, 14, 14))
    smooth = functional.interpolate(some.inputs, (SIDE, SIDE), mode="bilinear")
    return Examples((255 * smooth).round().to(torch.uint8), some.targets)


@pytest.mark.parametrize("kind", KINDS)
def test_more_is_worse_and_the_same_every_time(clean, kind):
    def error(severity):
        return float((corrupted(clean, kind, severity).inputs - clean.inputs).abs().mean())

    errors = [error(severity) for severity in range(1, 6)]
    assert errors[0] > 0
    assert errors[0] < errors[2] < errors[4]
    assert errors == [error(severity) for severity in range(1, 6)]
    worse = corrupted(clean, kind)
    assert torch.equal(worse.targets, clean.targets)
    assert worse.input_shape == clean.input_shape
    assert (worse.inputs.min() >= 0, worse.inputs.max() <= 1) == (True, True)


def test_noise_has_its_deviation_and_belongs_to_the_image_and_the_seed():
    grey = Examples(torch.full((40, 3, 16, 16), 0.5), torch.arange(40) % 2)
    noise = corrupted(grey, "noise", 1).inputs - 0.5
    assert float(noise.std()) == pytest.approx(0.08, rel=0.03)
    assert float(noise.mean()) == pytest.approx(0, abs=0.003)
    assert len(noise.flatten(1).unique(dim=0)) == 40
    few = corrupted(grey.subset(torch.arange(3)), "noise", 1).inputs - 0.5
    assert torch.equal(few, noise[:3])
    assert not torch.equal(corrupted(grey, "noise", 1, seed=1).inputs - 0.5, noise)


def test_blur_is_a_normalised_gaussian_of_the_stated_width():
    side = 56
    point = torch.zeros(1, 1, side, side)
    point[0, 0, 28, 28] = 1.0
    found = corrupted(Examples(point, torch.tensor([0])), "blur", 5).inputs[0, 0]
    deviation = 6 * side / 224
    below = [0.5 + math.erf((edge - 28.5) / deviation / 2**0.5) / 2 for edge in range(side + 1)]
    for row in range(20, 37):
        for column in range(20, 37):
            expected = (below[row + 1] - below[row]) * (below[column + 1] - below[column])
            assert float(found[row, column]) == pytest.approx(expected, abs=0.6 / 255)
    flat = Examples(torch.full((1, 3, side, side), 0.2), torch.tensor([0]))
    torch.testing.assert_close(corrupted(flat, "blur", 5).inputs, flat.inputs)


def test_contrast_draws_every_channel_to_its_own_mean(clean):
    found = corrupted(clean, "contrast", 4).inputs
    for image, worse in zip(clean.inputs, found, strict=True):
        for before, after in zip(image, worse, strict=True):
            mean = before.sum() / SIDE**2
            torch.testing.assert_close(after, mean + 0.1 * (before - mean), rtol=0, atol=0.5 / 255 + 1e-6)


def test_pixels_become_blocks_of_their_mean():
    image = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    found = corrupted(Examples(image, torch.tensor([0])), "pixels", 5).inputs[0]
    for row in range(0, 8, 4):
        for column in range(0, 8, 4):
            block = found[:, row : row + 4, column : column + 4].flatten(1)
            mean = image[0, :, row : row + 4, column : column + 4].flatten(1).mean(dim=1, keepdim=True)
            torch.testing.assert_close(block, mean.expand(-1, 16), rtol=0, atol=0.5 / 255 + 1e-6)


def test_wrong_words_are_refused(clean):
    with pytest.raises(ValueError, match="there is no corruption 'noisy'; did you mean 'noise'"):
        corrupted(clean, "noisy")
    for severity in (0, 6, 2.5):
        with pytest.raises(ValueError, match="expected a whole number from 1 to 5"):
            corrupted(clean, "noise", severity)
    with pytest.raises(ValueError, match=r"corruptions take images .*not inputs of \(4,\)"):
        corrupted(Examples(torch.rand(2, 4), torch.tensor([0, 1])), "blur")
