"""Folders of labelled images: what is read, how it is cut, and what each wrong folder is told."""

import json

import pytest
import torch

from forgetting.tasks.labelled import class_columns, labelled

Image = pytest.importorskip("PIL.Image", reason="Pillow is not installed (extra: vision)")


def write(folder, name, count=10, size=(12, 8), grey=0):
    """A class folder of plain images, each a grey level of its own."""
    (folder / name).mkdir(parents=True)
    for number in range(count):
        Image.new("RGB", size, (grey + number,) * 3).save(folder / name / f"{number}.png")


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "photos", "3_cat", grey=0)
    write(tmp_path / "photos", "7", grey=100)
    return tmp_path / "photos"


def levels(examples):
    return sorted(examples.inputs[:, 0, 0, 0].mul(255).round().int().tolist())


def test_parts_are_disjoint_whole_and_stratified(folder):
    parts = labelled(folder, 8)
    assert [len(part) for part in parts] == [12, 2, 6]
    assert sorted(level for part in parts for level in levels(part)) == [*range(10), *range(100, 110)]
    for part in parts:
        assert part.input_shape == (3, 8, 8)
        assert torch.equal(part.targets, torch.where(part.inputs[:, 0, 0, 0] * 255 < 50, 3, 7))
        assert torch.bincount(part.targets)[[3, 7]].tolist() == [len(part) // 2] * 2


def test_the_seed_decides_what_is_held_out(folder):
    assert levels(labelled(folder, 8, seed=0).test) == levels(labelled(folder, 8, seed=0).test)
    assert levels(labelled(folder, 8, seed=0).test) != levels(labelled(folder, 8, seed=1).test)


def test_at_most_so_many_are_read(folder):
    every, some = labelled(folder, 8), labelled(folder, 8, most=(4, 2, 3))
    assert [len(part) for part in some] == [4, 2, 3]
    assert all(set(levels(few)) <= set(levels(part)) for few, part in zip(some, every, strict=True))


def test_the_middle_is_cut_out(tmp_path):
    for name in ("0", "1"):
        write(tmp_path, name, count=4)
        image = Image.new("RGB", (24, 8), (255, 0, 0))
        image.paste((0, 0, 255), (8, 0, 16, 8))
        for number in range(4):
            image.save(tmp_path / name / f"{number}.png")
    found = labelled(tmp_path, 8, test=0.5, validation=0.5).train.inputs
    assert (found[:, 2] == 1).all()
    assert (found[:, 0] == 0).all()


def test_a_class_index_names_the_folders(folder, tmp_path):
    for entries in ({"7": 1, "3_cat": 0}, {"0": ["n021", "3_cat"], "1": "7"}):
        index = tmp_path / "index.json"
        index.write_text(json.dumps(entries))
        assert set(labelled(folder, 8, classes=class_columns(index)).test.targets.tolist()) == {0, 1}


def test_a_name_of_two_classes_says_neither(tmp_path):
    index = tmp_path / "index.json"
    index.write_text(json.dumps({"134": ["n02012849", "crane"], "517": ["n03126707", "crane"]}))
    assert class_columns(index) == {"n02012849": 134, "n03126707": 517}


@pytest.mark.parametrize("content", ["[1, 2]", "{", '{"a": 1.5}', '{"a": "b"}', '{"0": [1]}'])
def test_what_is_no_class_index_is_refused(tmp_path, content):
    (tmp_path / "index.json").write_text(content)
    with pytest.raises(ValueError, match=r"index\.json is no class index.*expected JSON"):
        class_columns(tmp_path / "index.json")


def test_wrong_folders_get_a_clear_error(folder, tmp_path):
    with pytest.raises(ValueError, match=r"nowhere is no folder; expected one that holds a folder of images"):
        labelled(tmp_path / "nowhere", 8)
    with pytest.raises(ValueError, match=r"7 holds no class folders \(images lie in it directly: name the folder abo"):
        labelled(folder / "7", 8)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty holds no class folders; expected empty/CLASS/\*\.jpg"):
        labelled(tmp_path / "empty", 8)
    (folder / "9").mkdir()
    with pytest.raises(ValueError, match=r"9 holds no images \(\.jpg"):
        labelled(folder, 8)


def test_one_class_is_not_enough(tmp_path):
    write(tmp_path, "3")
    with pytest.raises(ValueError, match=r"images of one class only \(3\): accuracy needs at least two"):
        labelled(tmp_path, 8)


def test_unknown_classes_are_named(folder):
    with pytest.raises(ValueError, match=r"7: class 7, but the model has the classes 0…4"):
        labelled(folder, 8, columns=5)
    with pytest.raises(ValueError, match=r"7: the class index knows no '7'; it knows 3_cat"):
        labelled(folder, 8, classes={"3_cat": 0})
    write(folder, "dog")
    with pytest.raises(ValueError, match=r"dog: the folder names no class of the model; begin its name with the clas"):
        labelled(folder, 8)


def test_an_image_that_cannot_be_read_is_named(folder):
    for number in range(10):
        (folder / "7" / f"{number}.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"7/\d\.png cannot be read as an image"):
        labelled(folder, 8)
