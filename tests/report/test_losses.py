"""The part of the page about what was lost, and the page of one comparison."""

from __future__ import annotations

import functools
import re

import pytest

pytest.importorskip("matplotlib", reason="plots need matplotlib (extra: report)")

from forgetting import report
from forgetting.diagnosis import compare
from forgetting.report.groups import experiments
from forgetting.report.losses import classes, losses, table, verdicts
from forgetting.report.sweeps import reported
from tests.diagnosis import small
from tests.report.made import made, transfer


@functools.cache
def found(which="shifted", labelled=True):
    """What a comparison of two small networks says."""
    before, after = getattr(small, which)()
    data = small.digits()["test"] if which == "shifted" else small.digits(5)["test"]
    return compare(before, after, data if labelled else [inputs for inputs, _ in data]).as_data()


def results(seeds=1, **fields):
    """Plain fine-tuning with a diagnosis a seed, and a method without one."""
    kept = [made("ewc", seed, transfer(0.8, 0.7, 0.7)) for seed in range(seeds)]
    return kept + [made("finetune", seed, transfer(0.8, 0.4, 0.8), diagnosis={**found(), **fields})
                   for seed in range(seeds)]


def told(seeds=1, **fields):
    return losses(reported(experiments(results(seeds, **fields))[0]))


def test_the_page_says_what_was_lost(tmp_path):
    text = report.page(results(2), tmp_path / "page.html").read_text(encoding="utf-8")
    part = text[text.index("What was lost, and where"):]
    assert found()["verdict"].partition(";")[0].partition("(")[0] in part
    assert "2 of 2 seeds come to the same: old norm statistics." in part
    assert "Run without a diagnosis: ewc." in part
    assert part.count("<svg") >= 2
    for words in ("CKA", "Σ F Δθ²", "accuracy on the source (%)", "old norm statistics put back"):
        assert words in part


@pytest.mark.parametrize("figure", ["lost", "moved"])
def test_pictures_of_their_own(tmp_path, figure):
    assert report.save_picture(results(), tmp_path / "picture.png", figure=figure).stat().st_size > 5000
    with pytest.raises(ValueError, match="--diagnose"):
        report.save_picture([made("finetune", 0, transfer(0.8, 0.4, 0.8))], tmp_path / "none.png", figure=figure)


def test_a_page_without_diagnoses_says_how_to_have_them(tmp_path):
    plain = [made("finetune", 0, transfer(0.8, 0.4, 0.8))]
    assert "--diagnose" in report.page(plain, tmp_path / "page.html").read_text(encoding="utf-8")


def test_figures_of_the_table():
    (only,) = told()
    row = dict(zip(table([only])["heads"][1:], table([only])["rows"][0]["cells"], strict=True))
    before, after = found()["before"], found()["after"]
    assert row["source before → after (%)"]["text"] == f"{100 * before['accuracy']:.1f} → {100 * after['accuracy']:.1f}"
    interval = found()["difference"]
    assert f"{100 * interval['low']:.1f}".replace("-", "−") in row["change: points (95 % interval)"]["small"]
    assert row["calibration error before → after (%)"]["text"].endswith(f"→ {100 * after['calibration_error']:.1f}")
    repair = next(each for each in found()["recoveries"] if each["name"] == "old norm statistics")
    cell = row["old norm statistics: points back (share)"]
    assert cell["text"] == f"{100 * repair['gain']['estimate']:.1f}"
    assert f"({100 * repair['share']:.0f} %)" in cell["small"]
    worst = found()["classes"][0]
    assert classes(only).startswith(f"{worst['label']}: −{100 * worst['drop']:.0f}")


def test_an_interval_over_seeds():
    def moved(accuracy):
        return {"after": {**found()["after"], "accuracy": accuracy}}

    runs = [made("finetune", seed, transfer(0.8, 0.4, 0.8), diagnosis={**found(), **moved(value)})
            for seed, value in enumerate((0.3, 0.4, 0.5))]
    (only,) = losses(reported(experiments(runs)[0]))
    cell = table([only])["rows"][0]["cells"][2]
    mean, reach = 100 * (0.4 - found()["before"]["accuracy"]), 100 * 4.302653 * 0.1 / 3**0.5
    assert cell["text"] == f"{mean:.1f}".replace("-", "−")
    low, high = (f"{mean + side * reach:.1f}".replace("-", "−") for side in (-1, 1))
    assert cell["small"] == f"({low} … {high})"


def test_seeds_that_disagree_are_counted():
    other = {**found(), "remedy": None}
    runs = [made("finetune", seed, transfer(0.8, 0.4, 0.8), diagnosis=one) for seed, one in enumerate((found(), other))]
    (said,) = verdicts(losses(reported(experiments(runs)[0])))
    assert said["small"] == "Seed 0; 1 of 2 seeds come to the same: old norm statistics."


@pytest.mark.parametrize(("which", "labelled"), [("shifted", True), ("forgot", True), ("shifted", False)])
def test_the_page_of_a_comparison(tmp_path, which, labelled):
    data = found(which, labelled)
    path = report.comparison_page(data, tmp_path / "lost.html")
    text = path.read_text(encoding="utf-8")
    assert data["verdict"] in text
    assert text.count("<svg") == (4 if labelled else 3)  # no calibration without labels
    assert f"{100 * data['after']['accuracy']:.1f} %" in text
    assert ("norm statistics re-estimated" in text) == (which == "shifted")
    assert not re.search(r'(src|href)="(?!#)', text)
    assert text == report.comparison_page(data, tmp_path / "again.html").read_text(encoding="utf-8")
    assert [each.name for each in tmp_path.glob("*.part")] == []


def test_only_comparisons_have_that_page(tmp_path):
    with pytest.raises(ValueError, match="Comparison.as_data"):
        report.comparison_page({"format": "letter"}, tmp_path / "lost.html")
