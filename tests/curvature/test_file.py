"""A diagonal in a file: whole, shareable, and an error by name where it is not."""

import math

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from forgetting import fisher
from forgetting.curvature import Diagonal, NotFinite


@pytest.fixture
def matrix():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5), nn.Linear(5, 3))
    return fisher.diagonal(model, [(torch.randn(6, 4), torch.randint(3, (6,)))], labels="empirical")


def test_a_file_gives_back_what_was_saved(matrix, tmp_path):
    path = tmp_path / "fisher.safetensors"
    matrix.save(path)
    loaded = Diagonal.load(path)
    assert set(loaded) == set(matrix)
    assert all(torch.equal(loaded[name], value) and loaded[name].dtype == value.dtype for name, value in matrix.items())
    assert (loaded.examples, loaded.labels, loaded.routes) == (6, "empirical", matrix.routes)
    assert [file.name for file in tmp_path.iterdir()] == ["fisher.safetensors"]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_dtypes_scalars_and_views(dtype, tmp_path):
    whole = torch.arange(12, dtype=dtype).reshape(3, 4)
    matrix = Diagonal({"scale": torch.tensor(2.0, dtype=dtype), "turned": whole.T, "row": whole[1], "empty": whole[:0]})
    matrix.save(str(tmp_path / "m"))
    loaded = Diagonal.load(tmp_path / "m")
    assert all(torch.equal(loaded[name], matrix[name]) for name in matrix)
    assert {value.dtype for value in loaded.values()} == {dtype}
    assert (loaded.examples, loaded.labels, loaded.routes) == (None, None, {})


def test_names_that_share_memory(tmp_path):
    shared = torch.ones(3)
    Diagonal({"a": shared, "b": shared}).save(tmp_path / "m")
    assert torch.equal(Diagonal.load(tmp_path / "m")["b"], shared)


def test_other_programs_can_read_it(matrix, tmp_path):
    matrix.save(tmp_path / "m")
    assert {name: tensor.shape for name, tensor in load_file(tmp_path / "m").items()} == {
        name: value.shape for name, value in matrix.items()}


@pytest.mark.parametrize("keep", [0, 4, 8, 60, 0.5, 0.99])
def test_a_truncated_file(matrix, tmp_path, keep):
    path = tmp_path / "m"
    matrix.save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: keep if isinstance(keep, int) else int(keep * len(whole))])
    with pytest.raises(ValueError, match=r"m is not a whole safetensors file.*save the matrix again"):
        Diagonal.load(path)


def test_a_file_of_another_kind(tmp_path):
    save_file({"w": torch.ones(2)}, tmp_path / "weights")
    with pytest.raises(ValueError, match=r"weights has the format None, expected 'forgetting\.diagonal/1'"):
        Diagonal.load(tmp_path / "weights")
    (tmp_path / "text").write_text("not tensors, and rather longer than a header would be")
    with pytest.raises(ValueError, match="text is not a whole safetensors file"):
        Diagonal.load(tmp_path / "text")


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        Diagonal.load(tmp_path / "nowhere")


def test_a_file_with_broken_numbers(tmp_path):
    about = {"format": "forgetting.diagonal/1", "about": '{"examples": 1, "labels": "exact", "routes": {}}'}
    save_file({"w": torch.tensor([1.0, math.nan])}, tmp_path / "m", metadata=about)
    with pytest.raises(NotFinite, match="importance of 'w' holds non-finite"):
        Diagonal.load(tmp_path / "m")


def test_a_failed_save_leaves_the_old_file(matrix, tmp_path, monkeypatch):
    path = tmp_path / "m"
    matrix.save(path)

    def broken(tensors, filename, metadata):
        filename.write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr("forgetting.curvature.diagonal.save_file", broken)
    with pytest.raises(OSError, match="no space left"):
        matrix.scaled(2.0).save(path)
    assert Diagonal.load(path).trace() == matrix.trace()
