"""The command, as a user types it: runs, tables, a regularizer of one's own, interruption, wrong input."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from forgetting.cli import main
from forgetting.protocol import Store

pytest.importorskip("sklearn", reason="the digits come with scikit-learn (extra: digits)")
QUICK = ("--set", "recipe.epochs=1", "--set", "recipe.pretraining_epochs=1", "--set", "recipe.every=1000")
EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "my_regularizer.py"
FIGURES = ("source_before", "source_after", "retention", "adaptation", "average_accuracy", "forgetting", "seconds")


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def refused(*arguments: object) -> str:
    result = call(*arguments)
    assert result.exit_code != 0
    assert "Traceback" not in result.output
    return " ".join(result.output.split())


def table(path: Path) -> list[dict]:
    return json.loads(path.read_text(encoding="utf-8"))


def without_seconds(rows: list[dict]) -> list[dict]:
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def test_lists_every_method_and_sequence() -> None:
    output = call("list").output
    for name in ("finetune", "ewc", "wise-ft", "joint", "digits-transfer", "permuted-mnist"):
        assert name in output


def test_one_table_with_the_users_own_regularizer(tmp_path: Path) -> None:
    own = f"{EXAMPLE}:MyRegularizer"
    result = call("run", "digits-transfer", "--methods", f"finetune,ewc,{own}", "--seeds", 2, "--out", tmp_path / "out",
                  "--json", tmp_path / "rows.json", "--set", "ewc.strength=3", *QUICK)
    assert result.exit_code == 0, result.output
    assert "strength 3" in result.output
    rows = table(tmp_path / "rows.json")
    assert {row["method"] for row in rows} == {"finetune", "ewc", "MyRegularizer"}
    for row in rows:
        for figure in FIGURES:
            assert set(row[figure]) >= {"mean", "sem", "n"}
            assert row[figure]["n"] == 2
        assert 0 <= row["average_accuracy"]["mean"] <= 1


def test_a_dotted_name_is_found_in_the_working_directory(tmp_path: Path) -> None:
    package = tmp_path / "own_package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "pulls.py").write_text(EXAMPLE.read_text(encoding="utf-8"), encoding="utf-8")
    command = [sys.executable, "-c", "from forgetting.cli import main; main()", "run", "digits-transfer", "--dry-run",
               "--methods", "own_package.pulls:MyRegularizer", "--out", "out"]
    root = str(EXAMPLE.parents[2])
    safe = {**os.environ, "PYTHONPATH": root, "PYTHONSAFEPATH": "1"}
    finished = subprocess.run(
        command, cwd=tmp_path, env=safe, check=False, capture_output=True, text=True, timeout=120
    )
    assert finished.returncode == 0, finished.stderr
    assert "MyRegularizer" in finished.stdout


def test_report_writes_one_page(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="plots need matplotlib (extra: report)")
    call("run", "digits-transfer", "--methods", "finetune", "--seeds", 1, "--out", tmp_path, *QUICK)
    result = call("report", tmp_path)
    assert result.exit_code == 0, result.output
    assert "<svg" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_a_dry_run_trains_nothing(tmp_path: Path) -> None:
    result = call("run", "digits-transfer", "--methods", "ewc,l2sp", "--out", tmp_path / "out", "--dry-run")
    assert result.exit_code == 0, result.output
    assert "MiB" in result.output
    assert not (tmp_path / "out").exists()


def test_a_finished_run_is_not_repeated(tmp_path: Path) -> None:
    arguments = ("run", "split-digits", "--methods", "finetune", "--seeds", 1, "--out", tmp_path, *QUICK)
    call(*arguments)
    trained = len(Store(tmp_path).journal())
    assert trained == 5
    call(*arguments)
    assert len(Store(tmp_path).journal()) == trained


@pytest.mark.slow
def test_killed_at_three_moments_and_run_again(tmp_path: Path) -> None:
    """``kill -9``, three times; then the table is that of an uninterrupted run and no task was trained twice.

    Both methods learn the first of the five tasks alike: once a seed.
    """
    command = [sys.executable, "-m", "forgetting.cli", "run", "split-digits", "--methods", "finetune,ewc", "--seeds",
               "3", *QUICK]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def start(out: Path) -> subprocess.Popen[bytes]:
        return subprocess.Popen([*command, "--out", str(out), "--json", f"{out}.json"], env=environment,
                                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    assert start(tmp_path / "whole").wait(timeout=240) == 0
    broken = tmp_path / "broken"
    for enough in (2, 11, 23):
        process = start(broken)
        while len(journal(broken)) < enough:
            assert process.poll() is None, "the run ended before it could be killed"
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert len(journal(broken)) < 27
    assert start(broken).wait(timeout=240) == 0
    assert without_seconds(table(Path(f"{broken}.json"))) == without_seconds(table(Path(f"{tmp_path / 'whole'}.json")))
    trained = [(line["run"], line["task"]) for line in journal(broken)]
    assert len(trained) == len(set(trained)) == 27


def journal(path: Path) -> list[dict]:
    return Store(path).journal() if (path / "store.json").exists() else []


def test_wrong_words_get_the_nearest_right_one(tmp_path: Path) -> None:
    run = ("run", "digits-transfer", "--out", tmp_path / "out", "--methods")
    assert "did you mean 'finetune'" in refused(*run, "finetuen")
    assert "did you mean 'digits-transfer'" in refused("run", "digit-transfer", "--methods", "ewc", "--out", tmp_path)
    assert "did you mean 'strength'" in refused(*run, "ewc", "--set", "ewc.strenght=1")
    assert "did you mean 'epochs'" in refused(*run, "ewc", "--set", "recipe.epoch=1")
    assert "did you mean 'ewc'" in refused(*run, "ewc", "--set", "ewcc.strength=1")
    assert "METHOD.KEY=VALUE" in refused(*run, "ewc", "--set", "strength=1")
    assert "device 'cuda:99' cannot be used here" in refused(*run, "ewc", "--device", "cuda:99")
    assert "device 'gpu' cannot be used here" in refused(*run, "ewc", "--device", "gpu")
    assert "--methods names none" in refused(*run, ",")
    assert "there is no folder" in refused(*run, "ewc", "--json", tmp_path / "none" / "rows.json")
    assert "no file" in refused(*run, "missing.py:Mine")


def test_a_method_that_diverges_leaves_the_others_their_table(tmp_path: Path) -> None:
    result = call("run", "digits-transfer", "--methods", "l2sp,finetune", "--seeds", 1, "--out", tmp_path / "out",
                  "--json", tmp_path / "rows.json", "--set", "l2sp.strength=1e6", *QUICK)
    assert result.exit_code == 1
    assert "proximal" in result.output
    assert [row["method"] for row in table(tmp_path / "rows.json")] == ["finetune"]


def test_when_every_run_diverges_that_is_what_is_said(tmp_path: Path) -> None:
    words = refused("run", "digits-transfer", "--methods", "l2sp", "--seeds", 1, "--out", tmp_path / "out",
                    "--json", tmp_path / "rows.json", "--set", "l2sp.strength=1e6", *QUICK)
    assert "seed 0: the loss is" in words
    assert not (tmp_path / "rows.json").exists()


def test_nothing_to_report(tmp_path: Path) -> None:
    assert "forgetting run" in refused("report", tmp_path)


def test_a_store_of_another_version_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "store.json").write_text('{"format": 0}', encoding="utf-8")
    assert "version 0" in refused("run", "digits-transfer", "--methods", "finetune", "--out", tmp_path, *QUICK)


def test_a_truncated_result_is_named_and_done_again(tmp_path: Path) -> None:
    arguments = ("run", "digits-transfer", "--methods", "finetune", "--seeds", 1, "--out", tmp_path, *QUICK)
    call(*arguments)
    (result,) = tmp_path.glob("runs/*/result.json")
    whole = Store(tmp_path).results()[0].figures()
    result.write_bytes(result.read_bytes()[:100])
    assert "result.json" in refused("report", tmp_path)
    with pytest.warns(UserWarning, match="result.json"):
        assert call(*arguments).exit_code == 0
    assert Store(tmp_path).results()[0].figures() == whole


@pytest.mark.parametrize(("returned", "words"), [
    ("0.5", "penalty returned float"), ("None", "penalty returned NoneType"),
    ("self.zero(model).repeat(2)", "penalty returned shape (2,)"),
])
def test_a_penalty_that_is_no_scalar(tmp_path: Path, returned: str, words: str) -> None:
    own = tmp_path / "own.py"
    own.write_text("from forgetting import Regularizer\n\n\nclass Own(Regularizer):\n"
                   "    def consolidate(self, model, data=None, *, outputs=None, curvature=None): ...\n"
                   f"    def penalty(self, model, inputs=None, outputs=None): return {returned}\n", encoding="utf-8")
    assert words in refused("run", "digits-transfer", "--methods", f"{own}:Own", "--seeds", 1,
                            "--out", tmp_path / "out", *QUICK)
@pytest.mark.slow
def test_two_workers_show_what_one_shows(tmp_path: Path) -> None:
    own = f"{EXAMPLE}:MyRegularizer"
    for workers in (1, 2):
        result = call("run", "digits-transfer", "--methods", f"finetune,ewc+layerwise-decay,{own}", "--seeds", 2,
                      "--out", tmp_path / f"out{workers}", "--json", tmp_path / f"{workers}.json", "--workers", workers,
                      *QUICK)
        assert result.exit_code == 0, result.output
    assert without_seconds(table(tmp_path / "1.json")) == without_seconds(table(tmp_path / "2.json"))


def test_queued_runs_are_left_to_workers(tmp_path: Path) -> None:
    arguments = ("run", "split-digits", "--methods", "finetune,ewc", "--seeds", 1, "--out", tmp_path, *QUICK)
    said = " ".join(call(*arguments, "--queue").output.split())
    assert "2 runs are queued" in said
    assert Store(tmp_path).journal() == []
    assert call("work", tmp_path).exit_code == 0
    trained = len(Store(tmp_path).journal())
    assert trained == 1 + 2 * 4
    assert call(*arguments).exit_code == 0
    assert len(Store(tmp_path).journal()) == trained
    assert "--wandb takes one run at a time" in refused(*arguments, "--queue", "--wandb")


