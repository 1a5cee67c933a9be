"""The language study on a model of a few hundred weights: its figures against slow loops, its command to the end."""

import json
import math

import pytest
import torch
from click.testing import CliRunner
from torch import nn
from torch.nn import functional

import forgetting
from benchmarks.retention import language
from tests.retention import made

pytest.importorskip("transformers")
WORDS = ["to", "be", "or", "not", "that", "is", "the", "question", "whether", "nobler", "in", "mind", "suffer",
         "slings", "and", "arrows", "of", "outrageous"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return made.decoder(tmp_path_factory.mktemp("gpt"), WORDS)


@pytest.fixture
def data(tmp_path, monkeypatch):
    text = tmp_path / "data" / "text"
    for name, words in (("wikitext2/valid.txt", WORDS), ("wikitext2/test.txt", WORDS[::-1]),
                        ("tinyshakespeare/input.txt", WORDS[::2])):
        (text / name).parent.mkdir(parents=True, exist_ok=True)
        (text / name).write_text(" ".join(words * 40))
    monkeypatch.setenv("FORGETTING_DATA", str(tmp_path / "data"))


def test_perplexity_and_divergence_are_those_of_a_loop_over_positions(folder):
    model, tokenizer = language.loaded(str(folder))
    model = model.double()
    tokens = language.windows(tokenizer, " ".join(WORDS * 4), 8, 32)
    kept = forgetting.KL(1.0)
    kept.consolidate(model)
    with torch.no_grad():
        before = [functional.softmax(model(input_ids=window[None]).logits[0], -1) for window in tokens]
        model.transformer.wte.weight += 0.3 * torch.sin(torch.arange(160.0).view(20, 8))
        after = [functional.softmax(model(input_ids=window[None]).logits[0], -1) for window in tokens]
    surprise = [-math.log(float(after[row][place - 1, tokens[row, place]]))
                for row in range(len(tokens)) for place in range(1, 8)]
    apart = [float((p * (p.log() - q.log())).sum()) for old, new in zip(before, after, strict=True)
             for p, q in zip(old, new, strict=True)]
    assert language.perplexity(model, tokens) == pytest.approx(math.exp(sum(surprise) / len(surprise)), rel=1e-5)
    assert language.divergence(kept, model, tokens) == pytest.approx(sum(apart) / len(apart), rel=1e-5)
    assert sum(apart) > 0.01


def go(folder, out, *more):
    return CliRunner().invoke(language.main, [
        "--network", str(folder), "--out", str(out), "--steps", "12", "--length", "8", "--tokens", "64",
        "--tested", "64", "--rate", "0.01", *more])


def test_every_method_runs_and_a_finished_run_is_not_repeated(folder, data, tmp_path):
    out = tmp_path / "out"
    found = go(folder, out, "--methods", ",".join(language.METHODS), "--strength", "freeze=2", "--strength", "ewc=1e6")
    assert found.exit_code == 0, found.output
    read = [json.loads(file.read_text()) for file in out.glob("*.json")]
    runs = {run["settings"]["method"]: run for run in read}
    assert set(runs) == set(language.METHODS)
    plain = runs["finetune"]
    assert plain["after"]["target"] < plain["before"]["target"]
    assert plain["before"]["divergence"] == 0
    assert runs["ewc"]["after"]["divergence"] < plain["after"]["divergence"]
    assert runs["wise-ft"]["after"]["divergence"] < plain["after"]["divergence"]
    times = {file: file.stat().st_mtime_ns for file in out.iterdir()}
    assert go(folder, out, "--methods", "finetune,ewc", "--strength", "ewc=1e6").exit_code == 0
    assert times == {file: file.stat().st_mtime_ns for file in out.iterdir()}
    (out / "finetune-0-0.json").unlink()  # what was lost is made again, to the same figures
    assert go(folder, out, "--methods", "finetune").exit_code == 0
    assert json.loads((out / "finetune-0-0.json").read_text())["after"] == plain["after"]


def test_the_average_lies_between_both_models():
    model = nn.Linear(1, 1)
    with torch.no_grad(), language.held("wise-ft", model.requires_grad_(False), None, 0.25, torch.zeros(1)):
        before = model.weight.clone()
        model.weight += 4
    torch.testing.assert_close(model.weight, before + 1)


def test_weights_that_are_tied_are_averaged_once(folder):
    """A tied head and embedding stand twice in a state, with the same memory."""
    model, _ = language.loaded(str(folder))
    assert model.transformer.wte.weight is model.lm_head.weight
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with language.held("wise-ft", model, None, 0.25, torch.zeros(1, 8).long()), torch.no_grad():
        for parameter in model.parameters():
            parameter += 4
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, before[name] + 1, msg=name)


def test_a_run_has_a_peak_of_memory_of_its_own():
    held = torch.ones(2**27)  # half a gigabyte, which a process of its own has not
    assert language.alone(language.peak, device="cpu") < language.peak("cpu") - held.nbytes / 2


def test_bad_input_is_named(folder, data, tmp_path):
    assert "known are finetune" in go(folder, tmp_path / "a", "--methods", "ewd").output
    assert go(folder, tmp_path / "b", "--methods", "finetune").exit_code == 0
    assert "other settings" in go(folder, tmp_path / "b", "--methods", "finetune", "--batch", "3").output
