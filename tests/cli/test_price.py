"""What ``forgetting fisher --dry-run`` foretells, against what is then taken."""

import re

import pytest
import torch
from click.testing import CliRunner
from torch import nn

import forgetting
from forgetting import fisher
from forgetting.cli import price
from forgetting.cli.__main__ import main

MODEL = """
import torch
from torch import nn
def build():
    return nn.Sequential(nn.Linear(64, 256), nn.Tanh(), nn.Linear(256, 8))
def meta():
    with torch.device("meta"):
        return nn.Sequential(nn.Linear(4096, 200_000), nn.Linear(200_000, 30_000))
def loader():
    return [(torch.randn(8, 64), torch.randint(8, (8,))) for _ in range(5)]
"""


@pytest.fixture
def code(tmp_path):
    (tmp_path / "mine.py").write_text(MODEL)
    return tmp_path / "mine.py"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("storage", price.STORAGES)
def test_bytes_are_right_to_a_tenth(tmp_path, dtype, storage):
    model = nn.Sequential(nn.Linear(64, 256), nn.BatchNorm1d(256), nn.Tanh(), nn.Linear(256, 8)).to(dtype).eval()
    found = price.bytes_of(model)
    data = [(torch.randn(8, 64, dtype=dtype), torch.arange(8))]
    kept = fisher.anchored(model, data, labels="sampled")
    kept.save(tmp_path / "it.safetensors")
    assert found["file"] == pytest.approx((tmp_path / "it.safetensors").stat().st_size, rel=0.1)
    ewc = forgetting.EWC(1.0, storage=storage)
    ewc.consolidate(model, curvature=kept)
    held = [value for value in tensors(ewc.state_dict()) if value.numel() > 1]
    assert found[f"EWC, {storage}"] == pytest.approx(sum(v.numel() * v.element_size() for v in held), rel=0.1)
    assert found["model"] == sum(v.numel() * v.element_size() for v in model.state_dict().values())


def tensors(state):
    for value in state.values():
        if isinstance(value, dict):
            yield from tensors(value)
        elif isinstance(value, torch.Tensor):
            yield value


def test_a_model_without_memory_has_a_price(code, tmp_path):
    out = tmp_path / "it.safetensors"
    found = CliRunner().invoke(main, ["fisher", f"{code}:meta", f"{code}:loader", "-o", str(out), "--dry-run"])
    assert found.exit_code == 0, found.output
    weights = 4096 * 200_000 + 200_000 + 200_000 * 30_000 + 30_000
    for words in (f"{weights:,} weights", f"{weights * 4 / 1e9:.3g} GB", f"{weights * 8 / 1e9:.3g} GB", "not known"):
        assert words in found.output
    assert not out.exists()


def test_a_real_model_is_timed_and_nothing_is_written(code, tmp_path):
    out = tmp_path / "it.safetensors"
    found = CliRunner().invoke(main, ["fisher", f"{code}:build", f"{code}:loader", "-o", str(out), "--dry-run"])
    assert found.exit_code == 0, found.output
    assert "5 batches of" in found.output
    assert not out.exists()


@pytest.mark.parametrize(("options", "words"), [
    (("--examples", "10"), "about {}: 2 batches of"),
    (("--examples", "4"), "about {}: 1 batch of"),
    (("--precision", "0.1"), "at most {}: 5 batches of"),
    (("--curvature", "kronecker"), "not known: factors take"),
])
def test_what_was_asked_for_is_priced(code, tmp_path, options, words):
    found = CliRunner().invoke(main, ["fisher", f"{code}:build", f"{code}:loader", "-o", str(tmp_path / "it"),
                                      "--dry-run", *options])
    assert found.exit_code == 0, found.output
    assert re.search(words.format("[^ ]+ s"), " ".join(found.output.split()))


def test_without_batches_there_is_no_price(code, tmp_path):
    code.write_text(MODEL + "def empty():\n    return []\n")
    found = CliRunner().invoke(main, ["fisher", f"{code}:build", f"{code}:empty", "-o", str(tmp_path / "it"),
                                      "--dry-run"])
    assert found.exit_code == 1
    assert "no batch" in str(found.output) + str(found.exception)
