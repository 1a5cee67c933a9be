"""``forgetting fisher``, as a user types it: a file from two of their own files, merged, shown, and their errors."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from forgetting import EWC, fisher
from forgetting.cli import main
from forgetting.curvature import Anchored

MODEL = """
import torch
from torch import nn
import widths

def build():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, widths.WIDTH), nn.Tanh(), nn.Linear(widths.WIDTH, 6))

def number(): return 3
def needy(x): return x
def broken():
    return deeper(1)
def deeper(x):
    return x / 0
class Failing(nn.Linear):
    def __init__(self): super().__init__(5, 6)
    def forward(self, x): raise RuntimeError("overheated")
ready = build()
"""
DATA = """
import torch

def batches(seed, count):
    generator = torch.Generator().manual_seed(seed)
    return [(torch.randn(8, 5, generator=generator), torch.randint(6, (8,), generator=generator))
            for _ in range(count)]

def loader(): return batches(0, 5)
def other(): return batches(1, 3)
def regression(): return [(inputs, torch.randn(8, 6)) for inputs, _ in batches(0, 2)]
def halfway():
    yield batches(0, 1)[0]
    raise KeyError("shard 2")
def text(): return "batches"
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "net.py").write_text(MODEL, encoding="utf-8")
    (tmp_path / "models" / "widths.py").write_text("WIDTH = 7\n", encoding="utf-8")
    (tmp_path / "data.py").write_text(DATA, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["fisher", *map(str, arguments)])


def done(*arguments: object) -> str:
    result = call(*arguments)
    assert result.exit_code == 0, result.output
    return " ".join(result.output.split())


def refused(*arguments: object) -> str:
    result = call(*arguments)
    assert result.exit_code != 0
    assert "Traceback" not in result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return " ".join(result.output.split())


def functions(own: Path) -> tuple[dict, dict]:
    """The same files, run here."""
    model: dict = {}
    exec(MODEL.replace("widths.WIDTH", "7").replace("import widths\n", ""), model)
    data: dict = {}
    exec(DATA, data)
    return model, data


def test_a_file_that_ewc_consolidates(own: Path) -> None:
    before = list(sys.path)
    output = done("models/net.py:build", "data.py:loader", "-o", "kept/fisher.safetensors", "--device", "cpu")
    assert sys.path == before
    kept = Anchored.load(own / "kept" / "fisher.safetensors")
    model, data = functions(own)
    built = model["build"]()
    for name, value in fisher.diagonal(built, data["loader"]()).items():
        assert torch.equal(kept.curvature[name], value)
    assert kept.examples == 40
    assert kept.fingerprints[0] in output
    for words in ("Diagonal, 4 parameters, 90 weights", "exact", "Categorical", "40", "2.weight", "%"):
        assert words in output
    ewc = EWC(1.0)
    ewc.consolidate(built, curvature=kept)
    assert ewc.penalty(built).item() == 0
    assert sorted(file.name for file in (own / "kept").iterdir()) == ["fisher.safetensors"]


def test_every_option_reaches_the_estimate(own: Path) -> None:
    done("-o", "a", "--labels", "empirical", "--examples", 20, "--parameters", "2.*", "--device", "cpu", "--outputs",
         "0-3,4,5", "--likelihood", "categorical", "models/net.py:build", "data.py:loader")
    kept = Anchored.load(own / "a")
    model, data = functions(own)
    found = fisher.diagonal(model["build"](), data["loader"](), labels="empirical", examples=20, parameters="2.*")
    assert (kept.examples, kept.labels, kept.outputs) == (20, "empirical", (0, 1, 2, 3, 4, 5))
    assert set(kept.anchor) == {"2.weight", "2.bias"}
    assert torch.equal(kept.curvature["2.weight"], found["2.weight"])
    done("models/net.py:build", "data.py:regression", "-o", "b", "--likelihood", "gaussian", "--device", "cpu")
    assert Anchored.load(own / "b").likelihood == {"name": "Gaussian", "variance": 1.0}
    done("models/net.py:build", "data.py:loader", "-o", "c", "--tolerance", 0.5, "--precision", 0.5, "--device", "cpu")
    lossy = Anchored.load(own / "c").curvature
    assert lossy.standard_error > 0
    assert 0 < lossy.trace() < fisher.diagonal(model["build"](), data["loader"]()).trace()


def test_merged_files_are_one_estimate(own: Path) -> None:
    done("models/net.py:build", "data.py:loader", "-o", "a", "--device", "cpu")
    done("models/net.py:build", "data.py:other", "-o", "b", "--device", "cpu")
    output = done("merge", "a", "b", "-o", "both")
    model, data = functions(own)
    expected = fisher.diagonal(model["build"](), data["loader"]() + data["other"]())
    both = Anchored.load(own / "both")
    for name, value in expected.items():
        torch.testing.assert_close(both.curvature[name], value, rtol=1e-5, atol=1e-8)
    assert both.examples == 64
    assert len(both.fingerprints) == 2
    assert done("show", "both") == output
    assert "b does not merge with what comes before it: both hold the data" in refused("merge", "both", "b", "-o", "c")
    assert "two files or more" in refused("merge", "a", "-o", "c")
    assert not (own / "c").exists()


@pytest.mark.parametrize(("model", "data", "words"), [
    ("net.py:build", "data.py:loader", "there is no file net.py"),
    ("models/net.py", "data.py:loader", "'models/net.py' names no function: expected FILE.py:function"),
    ("models/net.py:biuld", "data.py:loader", "no function in models/net.py 'biuld'; did you mean 'build'?"),
    ("models/net.py:number", "data.py:loader", "models/net.py:number returned a int, expected a torch.nn.Module"),
    ("models/net.py:needy", "data.py:loader", "models/net.py:needy(x) must be callable without arguments"),
    ("models/net.py:broken", "data.py:loader", "ZeroDivisionError: division by zero"),
    ("models/net.py:Failing", "data.py:loader", "RuntimeError: overheated"),
    ("models/net.py:build", "data.py:text", "data.py:text returned a str, expected an iterable of batches"),
    ("models/net.py:build", "data.py:halfway", "KeyError: 'shard 2'"),
    ("models/net.py:build", "data.py:regression", "likelihood=None cannot tell"),
    ("data.py:loader", "data.py:loader", "data.py:loader returned a list, expected a torch.nn.Module"),
])
def test_what_is_wrong_is_said(own: Path, model: str, data: str, words: str) -> None:
    assert words in refused(model, data, "-o", "a", "--device", "cpu")
    assert not (own / "a").exists()


@pytest.mark.parametrize(("reference", "place"), [
    ("models/net.py:broken", "net.py, line 15, in deeper"),
    ("models/net.py:Failing", "net.py, line 18, in forward"),
])
def test_an_error_in_the_users_code_is_shown_with_its_line(own: Path, reference: str, place: str) -> None:
    assert place in refused(reference, "data.py:loader", "-o", "a", "--device", "cpu")


def test_a_file_that_is_no_python(own: Path) -> None:
    (own / "half.py").write_text("def build(:\n", encoding="utf-8")
    words = refused("half.py:build", "data.py:loader", "-o", "a")
    assert "SyntaxError" in words
    assert "half.py, line 1" in words


def test_wrong_options(own: Path) -> None:
    run = ("models/net.py:build", "data.py:loader", "-o", "a")
    assert "expected columns such as 0-4" in refused(*run, "--outputs", "a-b")
    assert "columns, each once" in refused(*run, "--outputs", "0,0")
    assert "device 'cuda:99' cannot be used here" in refused(*run, "--device", "cuda:99")
    assert "data.py is a file, not a folder" in refused(*run[:2], "-o", "data.py/a")
    assert "Missing option '-o'" in refused(*run[:2])
    assert "does not exist" in refused("show", "nothing")
    (own / "short").write_bytes(b"1234")
    assert "short is not a whole safetensors file" in refused("show", "short")


def test_help_shows_both_ways() -> None:
    for output in (done("--help"), call().output):
        for words in ("MODEL.py:build DATA.py:loader", "merge", "show"):
            assert words in output
    assert "--labels" in done("estimate", "--help")
