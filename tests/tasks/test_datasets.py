"""Examples.of: any data set of pairs, read once into memory."""

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, IterableDataset, Subset, TensorDataset

from forgetting.tasks import Examples


class Pairs(Dataset):
    """A map-style data set that, as many do, never raises IndexError."""

    def __init__(self, *items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index % len(self.items)]


class Stream(IterableDataset):
    def __iter__(self):
        return iter([(torch.ones(2), 0), (torch.zeros(2), 3)])


class Noisy(Dataset):
    def __len__(self):
        return 2

    def __getitem__(self, index):
        return torch.rand(2), index


def test_tensors_are_taken_as_they_are():
    inputs, targets = torch.rand(5, 3, 2, dtype=torch.float64), torch.tensor([0, 1, 0, 2, 1])
    found = Examples.of(TensorDataset(inputs, targets))
    assert found.inputs.dtype == torch.float32
    assert torch.equal(found.inputs, inputs.to(torch.float32))
    assert torch.equal(found.targets, targets)
    assert torch.equal(Examples.of(Subset(TensorDataset(inputs, targets), [3, 0])).targets, torch.tensor([2, 0]))


def test_a_stream_is_read_to_its_end():
    assert Examples.of(Stream()).targets.tolist() == [0, 3]
    assert Examples.of([(torch.zeros(2), 1)]).targets.tolist() == [1]


def test_arrays_get_their_channels_in_front():
    grey = np.arange(6, dtype=np.uint8).reshape(2, 3)
    colour = np.arange(18, dtype=np.uint8).reshape(2, 3, 3)
    assert Examples.of(Pairs((grey, 0), (grey, 1))).input_shape == (1, 2, 3)
    found = Examples.of(Pairs((colour, np.int64(0))))
    assert found.input_shape == (3, 2, 3)
    assert torch.equal(found.inputs[0], torch.from_numpy(colour).permute(2, 0, 1) / 255)
    assert Examples.of(Pairs((np.zeros(7), torch.tensor(1)))).inputs.dtype == torch.float32


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("RGB", 3), ("RGBA", 3), ("1", 1), ("P", 3), ("LA", 1)])
def test_pictures_become_bytes_with_their_channels_in_front(mode, channels):
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    picture = image.new("L", (5, 4), 255).convert(mode)
    found = Examples.of(Pairs((picture, 2)))
    assert found.input_shape == (channels, 4, 5)
    assert torch.equal(found.inputs, torch.ones(1, channels, 4, 5))


def test_random_transforms_are_drawn_once_and_leave_the_random_state():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    found = Examples.of(Noisy())
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(found.inputs, found.inputs)


def test_examples_are_given_back():
    ours = Examples.of(Stream())
    assert Examples.of(ours) is ours


@pytest.mark.parametrize(
    ("dataset", "error", "words"),
    [
        (Pairs(), ValueError, "empty: Pairs"),
        (Pairs(torch.zeros(2)), TypeError, r"item 0 must be a pair \(input, label\), not Tensor"),
        (Pairs({"image": 1, "label": 2}), TypeError, "item 0 must be a pair.*dict"),
        (Pairs((torch.zeros(2), 0), (torch.zeros(3), 0)), ValueError, r"input 1 .*\(3,\), input 0 .*\(2,\).*resizing"),
        (Pairs((torch.zeros(2), 0.5)), TypeError, "label 0 must be an integer, not float 0.5"),
        (Pairs((torch.zeros(2), torch.tensor([0, 1]))), TypeError, "label 0 must be an integer"),
        (Pairs(("words", 0)), TypeError, "input 0 must be a tensor, an array or a PIL image, not str 'words'"),
        (7, TypeError, "a data set of .* is needed, not int 7"),
    ],
)
def test_what_cannot_be_read(dataset, error, words):
    with pytest.raises(error, match=words):
        Examples.of(dataset)
