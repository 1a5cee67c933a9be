"""The code of the cards and docstrings that need peft, which the pages' own tests leave out, runs where peft is."""

import doctest
import re

import pytest
import torch

from forgetting.adapters import ProductEWC, lora
from tests.house.sources import ROOT
from tests.house.test_pages import blocks

pytest.importorskip("peft", reason="the extra 'peft' is not installed")


@pytest.mark.parametrize("name", ["lora", "lora-ewc"])
def test_the_card_runs(name):
    path = ROOT / "docs" / "methods" / f"{name}.md"
    found = blocks(path.read_text(encoding="utf-8"), "python")
    namespace = {"__name__": "page"}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for line, code, _ in found:
            exec(compile("\n" * (line - 1) + code, str(path), "exec"), namespace)
    assert found


@pytest.mark.parametrize("value", [lora, ProductEWC], ids=lambda value: value.__name__)
def test_the_example_runs(value):
    text = re.sub(r"\s*# doctest: \+SKIP", "", value.__doc__)
    namespace = dict(vars(__import__(value.__module__, fromlist=["_"])))
    example = doctest.DocTestParser().get_doctest(text, namespace, value.__name__, None, None)
    assert example.examples
    runner = doctest.DocTestRunner(verbose=False)
    assert runner.run(example).failed == 0
