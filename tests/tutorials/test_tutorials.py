"""The tutorials run as written, print what they show, and show the pictures that they draw."""

import re

import pytest
import torch

from tests.house.sources import ROOT
from tests.tutorials.pages import PAGES, PICTURE, blocks, differences, run, unfounded

NEEDS = {"own-model": ("sklearn", "PIL", "matplotlib"), "new-regularizer": ("sklearn", "matplotlib"),
         "trainer": ("transformers", "accelerate", "matplotlib")}
EVERY = pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)


@pytest.mark.filterwarnings("ignore:.*will diverge under SGD:UserWarning")  # pages show that, too
@EVERY
def test_a_tutorial_prints_what_it_shows_and_draws_its_pictures(path, tmp_path):
    for package in NEEDS[path.stem]:
        pytest.importorskip(package)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        outputs = run(path, tmp_path)
    assert outputs
    assert [line for block, printed in outputs for line in differences(block.code, printed)] == []
    pictures = PICTURE.findall(path.read_text(encoding="utf-8"))
    assert pictures
    assert [name for name in pictures if not (tmp_path / name).exists()] == []


@EVERY
def test_a_tutorials_figures_were_printed_and_its_pictures_are_there(path):
    text = path.read_text(encoding="utf-8")
    assert unfounded(text) == []
    assert [name for name in PICTURE.findall(text) if not (ROOT / "docs" / "pictures" / name).exists()] == []
    assert "```python" not in text, "blocks of tutorials are marked `py`: they run here, with what they print"


def test_every_picture_of_a_tutorial_is_shown():
    shown = {name for path in PAGES for name in PICTURE.findall(path.read_text(encoding="utf-8"))}
    assert {path.name for path in (ROOT / "docs" / "pictures").glob("tutorial-*.png")} == shown


def test_what_a_page_says_is_held_to_what_is_printed(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("It keeps 91.5 %, not 17.\n\n```py\nprint('kept', 91.5)\n```\n\n```text\nkept 80.0\n```\n")
    [(block, printed)] = run(page, tmp_path)
    assert differences(block.code, printed) == ["'kept 80.0' is now 'kept 91.5'"]
    assert differences("kept 90.0", printed) == []
    assert differences("lost 91.5", printed) == ["'lost 91.5' is now 'kept 91.5'"]
    assert differences("kept 91.5\nand", printed)
    assert unfounded(page.read_text()) == []
    assert unfounded("It keeps 91.4 % and 12 %.\n\n```text\n91.5\n```\n") == ["91.4", "12"]


def test_the_index_lists_every_tutorial():
    index = (ROOT / "docs" / "tutorials" / "index.md").read_text(encoding="utf-8")
    listed = re.findall(r"^([\w-]+)$", index, re.MULTILINE)
    assert sorted(listed) == sorted(path.stem for path in PAGES)
    assert all(blocks(path.read_text(encoding="utf-8")) for path in PAGES)
