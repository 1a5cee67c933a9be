"""The page's language model, which the pages' own tests leave out, runs where transformers are installed."""

import pytest
import torch

import forgetting.fisher
from tests.house.sources import ROOT
from tests.house.test_pages import blocks

pytest.importorskip("transformers", reason="the extra 'hf' is not installed")


def test_the_language_model_runs():
    path = ROOT / "docs" / "fisher.md"
    found = [(line, code) for line, code, _ in blocks(path.read_text(encoding="utf-8"), "python") if "GPT2" in code]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for line, code in found:
            exec(compile("\n" * (line - 1) + code, str(path), "exec"), {"torch": torch, "forgetting": forgetting})
    assert len(found) == 1
