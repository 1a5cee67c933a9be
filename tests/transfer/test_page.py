"""The page says what the results files say; the command says what it would do."""

import json

import pytest
from click.testing import CliRunner

from benchmarks import pages
from benchmarks.retention import transfer as command
from benchmarks.retention import transfer_page as page
from forgetting.transfer import Budget, Chosen, Study
from tests.transfer.made import runs

LESS = {("finetune", 0.1): [0.50, 0.51], ("scratch", 0.1): [0.60, 0.62], ("linear-probe", 0.1): [0.4, 0.9],
        ("finetune", 1.0): [0.8, 0.801], ("scratch", 1.0): [0.9, 0.9], ("linear-probe", 1.0): [0.8, 0.8]}


def content():
    study = Study(tuple(runs(LESS)), (Chosen("scratch", 0.1, 0.1, {0.01: 0.2, 0.1: 0.5, 1.0: -1.0}),), Budget(10))
    return {"about": {"level": 0.5},
            "environment": {"versions": {"torch": "2.15"}, "device": "a machine", "threads": 1}, **study.as_data()}


def test_the_page_is_what_the_results_say():
    assert not pages.stale(page.PAGES, page.TABLES), "make it anew: python -m benchmarks.retention.transfer_page"
    assert set().union(*map(pages.names, page.PAGES)) == set(page.TABLES)


def test_every_study_that_was_kept_is_on_the_page_with_its_pictures():
    kept = {file.stem.removeprefix("transfer-") for file in page.RESULTS.glob("transfer-*.json")}
    assert kept == set(page.STUDIES)
    text = page.PAGES[0].read_text(encoding="utf-8")
    for name in kept:
        for picture in (f"pictures/transfer-{name}.png", f"pictures/transfer-steps-{name}.png"):
            assert f"({picture})" in text
            assert (pages.DOCS / picture).is_file()


def test_negative_transfer_is_named():
    rows = page.accuracies(content()).splitlines()
    assert rows[2].startswith("| 10 % (100) | 50.5 (44.1 to 56.9) | 61.0 ")
    assert "| −10.5 (−16.9 to −4.1) | negative transfer |" in rows[2]  # t at 1 degree of freedom: 12.706 · 0.005
    assert "not decided at 2 seeds | scratch is above it already at 10 %, the least measured |" in rows[2]


def test_the_verdicts_stand_in_one_sentence():
    made = content()
    assert "**Negative transfer at 10, 100 % of the labels**, after 10 steps." in page.accuracies(made)
    for run in made["runs"]:
        if (run["arm"], run["share"]) == ("finetune", 1.0):
            run["accuracy"] += 0.2
    assert "**Negative transfer at 10 %; transfer pays at 100 % of the labels**, after" in page.accuracies(made)


def test_labels_are_in_brackets_where_nothing_is_decided():
    made = content()
    for run in made["runs"]:
        if (run["arm"], run["share"]) == ("finetune", 1.0):
            run["accuracy"] = 0.9 + 0.05 * (run["seed"] - 0.5)
    assert "| not decided at 2 seeds | " in page.accuracies(made).splitlines()[3]
    assert page.accuracies(made).splitlines()[3].endswith("| (1000, 1 times as many) |")


def test_times_and_rates_are_shown():
    assert "| 10 % (100) | 10, 1 s | 10, 1 s | 10, 1 s |" in page.times(content())
    assert "| scratch | 10 % | 0.01: 20.0; 0.1: 50.0; 1: diverged | 0.1 |" in page.rates(content())


def test_what_was_not_run_is_not_shown(tmp_path, monkeypatch):
    monkeypatch.setattr(page, "RESULTS", tmp_path)
    assert {table() for table in page.TABLES.values()} == {""}


@pytest.mark.parametrize("name", page.STUDIES)
def test_what_was_kept_is_whole(name):
    found = page.study(name)
    study = Study.from_data(found)
    assert study.as_data() == {key: found[key] for key in ("budget", "chosen", "runs")}
    cells = {(run.arm, run.share, run.seed) for run in study.runs}
    seeds = {run.seed for run in study.runs}
    assert cells == {(arm, share, seed) for arm in page.ARMS for share in study.shares for seed in seeds}
    assert len(seeds) >= 3
    assert {run.steps for run in study.runs} == {study.budget.steps}


def test_a_dry_run_says_how_many_and_writes_nothing(tmp_path):
    found = CliRunner().invoke(command.main, ["--dry-run", "--weights", "mnist", "--shares", "1,100", "--out",
                                              str(tmp_path / "out")])
    assert found.exit_code == 0, found.output
    assert "30 runs to choose rates, 30 to report, 300 steps each" in " ".join(found.output.split())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("arguments", "said"), [
    (["--weights", "imagenet"], "with --weights mnist, permuted-mnist, shuffled-labels"),
    (["--shares", "one"], "expected percentages with commas"),
])
def test_wrong_options_are_refused(arguments, said, tmp_path):
    found = CliRunner().invoke(command.main, [*arguments, "--out", str(tmp_path)])
    assert found.exit_code == 2
    assert said in " ".join(found.output.replace("│", " ").split())


def test_a_study_goes_from_command_to_file(tmp_path, monkeypatch):
    made = content()
    monkeypatch.setattr(command, "study", lambda given, out, rates: made)
    monkeypatch.setattr(command, "RESULTS", tmp_path)
    (tmp_path / "out").mkdir()
    found = CliRunner().invoke(command.main, ["--out", str(tmp_path / "out"), "--record", "mine"])
    assert found.exit_code == 0, found.output
    assert json.loads((tmp_path / "transfer-mine.json").read_text()) == json.loads(json.dumps(made))
    assert "negative transfer" in found.output

