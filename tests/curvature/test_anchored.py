"""A matrix with its anchor: whole in a file, refused by name where it is not, merged as one estimate over all data."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from forgetting import fisher
from forgetting.curvature import Anchored, Curvature, Diagonal, Identity


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5), nn.Linear(5, 3))


def data(sizes=(6, 3), seed=1):
    generator = torch.Generator().manual_seed(seed)
    return [(torch.randn(n, 4, generator=generator), torch.randint(3, (n,), generator=generator)) for n in sizes]


def kept(**changes) -> Anchored:
    made = model()
    found = fisher.diagonal(made, data())
    given = {"anchor": {name: value.detach().clone() for name, value in made.named_parameters()}, "labels": "exact",
             "likelihood": {"name": "Categorical", "ignore_index": -100}, "outputs": (0, 2), "examples": 9,
             "fingerprints": ("ab", "cd")}
    return Anchored(found, **{**given, **changes})


def assert_same(one: Anchored, other: Anchored):
    for name, value in one.anchor.items():
        assert torch.equal(other.anchor[name], value)
        assert other.anchor[name].dtype == value.dtype
    flat, again = one.curvature.state_dict(), other.curvature.state_dict()
    assert torch.utils._pytree.tree_structure(flat) == torch.utils._pytree.tree_structure(again)
    for a, b in zip(torch.utils._pytree.tree_leaves(flat), torch.utils._pytree.tree_leaves(again), strict=True):
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
    for field in ("labels", "likelihood", "outputs", "examples", "fingerprints"):
        assert getattr(one, field) == getattr(other, field)


def matrices() -> list[Curvature]:
    return [fisher.diagonal(model(), data()), Identity({"0.weight": 2.0, "0.bias": 0.1}),
            Diagonal({"tensor": torch.tensor([2.0])}, routes={"tensor": "tensor"})]


@pytest.mark.parametrize("number", range(3))
def test_a_file_gives_back_what_was_saved(number, tmp_path):
    matrix = matrices()[number]
    anchor = {name: torch.randn(value.shape) for name, value in matrix.diagonal().items()}
    whole = Anchored(matrix, anchor, "sampled", {"name": "Gaussian", "variance": 0.1}, (0, 3), 12, ("f" * 64,))
    whole.save(tmp_path / "m.safetensors")
    assert_same(whole, Anchored.load(tmp_path / "m.safetensors"))
    assert [file.name for file in tmp_path.iterdir()] == ["m.safetensors"]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_dtypes_views_and_shared_memory(dtype, tmp_path):
    shared = torch.arange(12, dtype=dtype).reshape(3, 4)
    whole = Anchored(Diagonal({"a": shared.T, "b": shared[1]}), {"a": shared.T, "b": shared[1]})
    whole.save(str(tmp_path / "m"))
    assert_same(whole, Anchored.load(tmp_path / "m"))


def test_a_missing_folder_is_made(tmp_path):
    kept().save(tmp_path / "new" / "folder" / "m")
    assert_same(kept(), Anchored.load(tmp_path / "new" / "folder" / "m"))


def test_other_programs_can_read_it(tmp_path):
    kept().save(tmp_path / "m")
    tensors = load_file(tmp_path / "m")
    assert torch.equal(tensors["anchor/0.weight"], model()[0].weight)
    assert torch.equal(tensors["curvature/values/0.weight"], kept().curvature["0.weight"])
    with safe_open(tmp_path / "m", framework="pt") as file:
        about = json.loads(file.metadata()["about"])
    assert (about["labels"], about["examples"], about["outputs"]) == ("exact", 9, [0, 2])


@pytest.mark.parametrize("keep", [0, 4, 8, 60, 0.5, 0.99])
def test_a_truncated_file(tmp_path, keep):
    path = tmp_path / "m"
    kept().save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: keep if isinstance(keep, int) else int(keep * len(whole))])
    with pytest.raises(ValueError, match=r"m is not a whole safetensors file.*save it again"):
        Anchored.load(path)


@pytest.mark.parametrize(("version", "words"), [("0", "an older forgetting wrote it"), ("2", "newer.*upgrade")])
def test_another_version_of_the_format(tmp_path, version, words):
    save_file({"w": torch.ones(2)}, tmp_path / "m", metadata={"format": f"forgetting.anchored/{version}"})
    expected = f"m has version {version} of its format, this forgetting reads version 1; .*{words}"
    with pytest.raises(ValueError, match=expected):
        Anchored.load(tmp_path / "m")


def test_a_file_of_another_kind(tmp_path):
    fisher.diagonal(model(), data()).save(tmp_path / "diagonal")
    with pytest.raises(ValueError, match=r"has the format 'forgetting\.diagonal/1', expected 'forgetting\.anchored/1'"):
        Anchored.load(tmp_path / "diagonal")
    save_file({"w": torch.ones(2)}, tmp_path / "weights")
    with pytest.raises(ValueError, match="weights has the format None"):
        Anchored.load(tmp_path / "weights")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        Anchored.load(tmp_path / "nowhere")


def test_a_failed_save_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    kept().save(tmp_path / "m")

    def broken(tensors, filename, metadata):
        filename.write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr("forgetting.curvature.anchored.save_file", broken)
    with pytest.raises(OSError, match="no space left"):
        kept(examples=1).save(tmp_path / "m")
    assert_same(kept(), Anchored.load(tmp_path / "m"))
    assert [file.name for file in tmp_path.iterdir()] == ["m"]


def test_matrix_and_anchor_that_do_not_fit():
    matrix = Diagonal({"a": torch.ones(2)})
    with pytest.raises(ValueError, match=r"must hold the same parameters.*\['b'\]"):
        Anchored(matrix, {"a": torch.ones(2), "b": torch.ones(1)})
    with pytest.raises(ValueError, match=r"importance of 'a' has the shape \(2,\), its anchor \(3,\)"):
        Anchored(matrix, {"a": torch.ones(3)})
    with pytest.raises(ValueError, match="anchor of 'a' holds numbers that are not finite"):
        Anchored(matrix, {"a": torch.tensor([1.0, float("nan")])})


def test_what_a_file_cannot_hold(tmp_path):
    with pytest.raises(TypeError, match="likelihood/power is a complex; a file holds tensors and plain values"):
        kept(likelihood={"power": 1j}).save(tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


def test_merged_files_are_one_estimate_over_all_the_data():
    made, parts = model().double(), [data((6, 3), 1), data((2,), 2), data((4, 1, 5), 3)]
    parts = [[(x.double(), y) for x, y in part] for part in parts]
    first, *others = [fisher.anchored(made, part) for part in parts]
    merged, alone = first.merge(*others), fisher.anchored(made, [batch for part in parts for batch in part])
    assert merged.examples == merged.curvature.examples == alone.examples == 21
    assert merged.fingerprints == tuple(part.fingerprints[0] for part in (first, *others))
    for name, value in alone.curvature.items():
        torch.testing.assert_close(merged.curvature[name], value, rtol=1e-12, atol=0)
        assert torch.equal(merged.anchor[name], alone.anchor[name])


@pytest.mark.parametrize(("changes", "words"), [
    ({"labels": "sampled"}, "labels differ: 'exact' and 'sampled'"),
    ({"likelihood": {"name": "Gaussian", "variance": 1.0}}, "likelihood differ: .*Categorical.*Gaussian"),
    ({"outputs": None}, r"outputs differ: \(0, 2\) and None"),
    ({"examples": None}, "one does not say how many"),
    ({"fingerprints": ("xy", "cd")}, "both hold the data with the fingerprint cd…; it would count twice"),
])
def test_what_does_not_merge(changes, words):
    with pytest.raises(ValueError, match=words):
        kept().merge(kept(**{"fingerprints": ("ef",), **changes}))


def test_other_anchors_do_not_merge():
    moved = {name: value.clone() for name, value in kept().anchor.items()}
    moved["2.bias"][1] += 1e-7
    with pytest.raises(ValueError, match="anchors differ at '2.bias'.*one after the other"):
        kept().merge(kept(anchor=moved, fingerprints=()))
    fewer = fisher.anchored(model(), data((3,)), parameters="2.*")
    with pytest.raises(ValueError, match=r"anchors differ: only one of them holds \['0.bias'"):
        kept(outputs=None).merge(fewer)


@pytest.mark.parametrize("approximation", ["kfac", "ekfac"])
def test_factors_travel_too(approximation, tmp_path):
    made = model()
    here = fisher.anchored(made, data(seed=1), curvature="kronecker", approximation=approximation)
    here.save(tmp_path / "m")
    again = Anchored.load(tmp_path / "m")
    assert_same(here, again)
    delta = {name: torch.randn_like(value) for name, value in here.anchor.items()}
    found = fisher.kronecker(made, data(seed=1), approximation=approximation)
    assert torch.equal(again.curvature.quadratic(delta), found.quadratic(delta))
    assert here.fingerprints == fisher.anchored(made, data(seed=1)).fingerprints, "two passes are hashed once"


def test_merged_factors_keep_the_trace():
    made = model()
    here, there = (fisher.anchored(made, data(seed=seed), curvature="kronecker") for seed in (1, 2))
    both = here.merge(there)
    assert both.curvature.examples == both.examples == 18
    assert both.curvature.trace() == pytest.approx((here.curvature.trace() + there.curvature.trace()) / 2, rel=0.05)
    with pytest.raises(ValueError, match="a Kronecker and a Diagonal do not merge"):
        here.merge(fisher.anchored(made, data(seed=2)))
    with pytest.raises(TypeError, match=r"Anchored\.load\(path\).*got a str"):
        here.merge("there.safetensors")
