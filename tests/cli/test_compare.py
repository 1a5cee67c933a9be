"""``forgetting compare``: two files, a network, data; one verdict, tables, a JSON file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch
from click.testing import CliRunner, Result

from forgetting import diagnosis
from forgetting.cli import main

MODEL = """
import torch
from torch import nn

def build(): return nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 6))
def number(): return 3
def broken(): return 1 / 0
"""
DATA = """
import torch

def batches(seed, count):
    generator = torch.Generator().manual_seed(seed)
    return [(torch.randn(8, 5, generator=generator), torch.randint(4, (8,), generator=generator))
            for _ in range(count)]

def loader(): return batches(0, 6)
def other(): return batches(1, 6)
def bare(): return (inputs for inputs, _ in loader())
def text(): return "batches"
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "net.py").write_text(MODEL, encoding="utf-8")
    (tmp_path / "data.py").write_text(DATA, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.save(network().state_dict(), "a.pt")
        safetensors.torch.save_file({f"module.{name}": value for name, value in network().state_dict().items()},
                                    "b.safetensors")
    return tmp_path


def network() -> torch.nn.Module:
    found: dict = {}
    exec(MODEL, found)
    return found["build"]()


def data(name: str) -> list:
    found: dict = {}
    exec(DATA, found)
    return list(found[name]())


GIVEN = {"--before": "a.pt", "--after": "b.safetensors", "--source": "data.py:loader", "--network": "net.py:build",
         "--device": "cpu"}


def call(*more: object, **changed: str) -> Result:
    given = {**GIVEN, **{f"--{name}": value for name, value in changed.items()}}
    return CliRunner().invoke(main, ["compare", *(word for pair in given.items() for word in pair), *map(str, more)])


def refused(*more: object, **changed: str) -> str:
    result = call(*more, **changed)
    assert result.exit_code != 0
    assert "Traceback" not in result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return " ".join(result.output.split())


def test_it_says_and_writes_what_the_function_finds(own: Path) -> None:
    result = call("--json", "out.json", "--outputs", "0-3", "--refit", "data.py:other", "--labels", "sampled",
                  "--head", "3")
    assert result.exit_code == 0, result.output
    before = diagnosis.load(network(), "a.pt")
    after = diagnosis.load(network(), "b.safetensors")
    found = diagnosis.compare(before, after, data("loader"), refit=data("other"), outputs=range(4), labels="sampled",
                              head="3")
    written = json.loads((own / "out.json").read_text(encoding="utf-8"))
    assert written == json.loads(json.dumps(found.as_data()))
    said = " ".join(result.output.split())
    assert said.startswith(found.verdict[:40])
    for words in ("The source, 48 labelled examples", "The most forgotten classes", "What comes back",
                  "Drift by layer"):
        assert words in said
    assert sorted(path.name for path in own.iterdir() if path.suffix in (".json", ".part")) == ["out.json"]


def test_data_without_labels(own: Path) -> None:
    result = call(source="data.py:bare")
    assert result.exit_code == 0, result.output
    assert result.output.startswith("The new model answers as the old one on")


def test_a_network_may_come_from_a_module_that_can_be_imported(own: Path) -> None:
    (own / "nets_of_mine").mkdir()
    (own / "nets_of_mine" / "small.py").write_text(MODEL, encoding="utf-8")
    assert call(network="nets_of_mine.small:build").output == call().output
    assert "there is no module 'nowhere' to import for --network nowhere:build" in refused(network="nowhere:build")
    assert "nets_of_mine.small defines no 'biuld'" in refused(network="nets_of_mine.small:biuld")
    assert "returned a int, expected a torch.nn.Module" in refused(network="nets_of_mine.small:number")


@pytest.mark.parametrize(("changed", "words"), [
    ({"before": "c.pt"}, "there is no file c.pt"),
    ({"network": "net.py"}, "'net.py' names no function: expected FILE.py:function"),
    ({"network": "net.py:number"}, "net.py:number returned a int, expected a torch.nn.Module"),
    ({"network": "net.py:broken"}, "ZeroDivisionError: division by zero"),
    ({"network": "torch.nn:Identity"}, "does not fit the network: only the network has none; only the file has"),
    ({"source": "data.py:text"}, "data.py:text returned a str, expected an iterable of batches"),
    ({"outputs": "0-2"}, "the data holds the labels [3], which are none of the 3 outputs that are compared"),
    ({"json": "nowhere/out.json"}, "there is no folder nowhere"),
    ({"head": "1"}, "head='1' is a BatchNorm1d, expected a linear layer"),
])
def test_what_is_wrong_is_said_in_a_line(own: Path, changed: dict[str, str], words: str) -> None:
    assert words in refused(**changed)


def test_a_page(own: Path) -> None:
    pytest.importorskip("matplotlib", reason="plots need matplotlib (extra: report)")
    result = call("--html", "lost.html", "--json", "lost.json")
    assert result.exit_code == 0, result.output
    found = json.loads(Path("lost.json").read_text(encoding="utf-8"))
    text = Path("lost.html").read_text(encoding="utf-8")
    assert found["verdict"] in text
    assert text.count("<svg") == 4
    assert "there is no folder" in refused("--html", "nowhere/lost.html")
