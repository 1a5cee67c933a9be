"""A Kronecker-factored matrix in a file, and in a state that torch reads without pickle."""

import io
import math

import pytest
import torch
from safetensors.torch import load_file, save_file

from forgetting.curvature import Block, Diagonal, Factors, Kronecker, restored
from tests.curvature.factored import SHAPES, changes, factored, flat

VARIANTS = {
    "kfac": lambda: factored("kfac"),
    "ekfac": lambda: factored("ekfac"),
    "blended": lambda: factored("kfac", 1).blend(factored("kfac", 2), 0.5),
    "without biases": lambda: factored("ekfac").restricted([name for name in SHAPES if "bias" not in name]),
    "biases alone": lambda: factored("ekfac").restricted([name for name in SHAPES if "bias" in name]),
    "a diagonal only": lambda: factored().restricted(["norm.weight"]),
}


@pytest.fixture(params=VARIANTS)
def matrix(request):
    return VARIANTS[request.param]()


def same(one, other):
    names = one.names()
    assert other.names() == names
    assert all(torch.equal(other.product(changes(0))[name], value) for name, value in one.product(changes(0)).items())
    assert (other.examples, other.labels, other.routes, other.distances) == (
        one.examples, one.labels, one.routes, one.distances)


def test_a_file_gives_back_what_was_saved(matrix, tmp_path):
    matrix.save(tmp_path / "m.safetensors")
    same(matrix, Kronecker.load(tmp_path / "m.safetensors"))
    assert [file.name for file in tmp_path.iterdir()] == ["m.safetensors"]


def test_a_state_goes_through_torch_without_pickle(matrix):
    file = io.BytesIO()
    torch.save(matrix.state_dict(), file)
    file.seek(0)
    same(matrix, restored(torch.load(file, weights_only=True)))


def test_other_programs_can_read_it(tmp_path):
    factored("kfac").save(tmp_path / "m")
    held = load_file(tmp_path / "m")
    assert held["linear.weight/a"].shape == (1, 3, 3)
    assert held["table.weight/a"].shape == (1, 5)
    assert held["rest/norm.weight"].shape == (4,)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_dtypes_and_shared_memory(dtype, tmp_path):
    shared = torch.eye(3, dtype=dtype)[None]
    blocks = [Block(name, torch.Size([3, 3]), Factors(shared, shared)) for name in ("a", "b/a")]
    Kronecker(blocks).save(tmp_path / "m")
    loaded = Kronecker.load(tmp_path / "m")
    assert [block.matrix.dtype for block in loaded.blocks] == [dtype, dtype]
    assert loaded.names() == ("a", "b/a")


@pytest.mark.parametrize("keep", [0, 60, 0.5, 0.99])
def test_a_truncated_file(tmp_path, keep):
    path = tmp_path / "m"
    factored().save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: keep if isinstance(keep, int) else int(keep * len(whole))])
    with pytest.raises(ValueError, match=r"m is not a whole safetensors file.*save the matrix again"):
        Kronecker.load(path)


def test_a_file_of_another_kind(tmp_path):
    save_file({"w": torch.ones(2)}, tmp_path / "weights")
    with pytest.raises(ValueError, match=r"the format None, expected 'forgetting\.kronecker/1' \(Kronecker\.save\)"):
        Kronecker.load(tmp_path / "weights")
    Diagonal({"w": torch.ones(2)}).save(tmp_path / "diagonal")
    with pytest.raises(ValueError, match=r"'forgetting\.diagonal/1', expected 'forgetting\.kronecker/1'"):
        Kronecker.load(tmp_path / "diagonal")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        Kronecker.load(tmp_path / "nowhere")


def test_a_state_with_broken_numbers():
    state = factored("ekfac").state_dict()
    state["blocks"]["conv.weight"]["spectrum"] = torch.full((2, 2, 5), math.nan)
    with pytest.raises(ValueError, match="the spectrum holds non-finite"):
        restored(state)


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "m"
    factored().save(path)

    def broken(tensors, filename, metadata):
        filename.write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr("forgetting.curvature.kronecker.save_file", broken)
    with pytest.raises(OSError, match="no space left"):
        factored().scaled(2.0).save(path)
    assert Kronecker.load(path).trace() == factored().trace()


def test_a_copy_elsewhere_is_another_matrix():
    matrix = factored()
    moved = matrix.to({name: torch.device("cpu") for name in SHAPES})
    torch.testing.assert_close(flat(moved.product(changes(0)), SHAPES), flat(matrix.product(changes(0)), SHAPES))
    assert moved.distances == matrix.distances
