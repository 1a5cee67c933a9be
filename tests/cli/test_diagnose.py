"""``forgetting run --diagnose`` and the report of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from forgetting.cli import main
from forgetting.protocol import Store

RUN = ["run", "digits-transfer", "--methods", "finetune", "--seeds", "1", "--set", "recipe.epochs=1",
       "--set", "recipe.pretraining_epochs=2", "--device", "cpu", "--diagnose", "--out"]


def test_from_a_run_to_the_page(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="plots need matplotlib (extra: report)")
    ran = CliRunner().invoke(main, [*RUN, str(tmp_path)])
    assert ran.exit_code == 0, ran.output
    (result,) = Store(tmp_path).results()
    assert result.diagnosis is not None
    shown = CliRunner().invoke(main, ["report", str(tmp_path), "--similarity"])
    assert shown.exit_code == 0, shown.output
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert result.diagnosis["verdict"] in text
    assert "1 pair of tasks: too few for a rank correlation" in text


@pytest.mark.parametrize("more", [["--queue"], ["--workers", "2"]])
def test_only_where_the_models_are(tmp_path: Path, more: list[str]) -> None:
    refused = CliRunner().invoke(main, [*RUN, str(tmp_path), *more])
    assert refused.exit_code == 2
    assert "--diagnose" in refused.output


def test_runs_that_stay_without_a_diagnosis_are_counted(tmp_path: Path) -> None:
    plain = CliRunner().invoke(main, [*[word for word in RUN if word != "--diagnose"], str(tmp_path)])
    assert plain.exit_code == 0, plain.output
    assert "no diagnosis" not in plain.output
    again = CliRunner().invoke(main, [*RUN, str(tmp_path)])
    assert again.exit_code == 0, again.output
    assert "1 of 1 runs hold no diagnosis" in " ".join(again.output.split())


def test_a_report_of_no_store_leaves_nothing_behind(tmp_path: Path) -> None:
    refused = CliRunner().invoke(main, ["report", str(tmp_path)])
    assert refused.exit_code == 1
    assert "there is no store of results" in refused.output
    assert list(tmp_path.iterdir()) == []
