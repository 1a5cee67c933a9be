"""The page says what the results files say; what a file says is shown as it is."""

import json

from benchmarks import pages
from benchmarks.retention import page

SUMMARY = {"mean": 0.5, "sem": 0.01, "n": 3}


def row(name, **changes):
    paired = {"retention": {"difference": 0.4, "interval": [0.3, 0.5], "n": 3}} if name != "finetune" else None
    return {"name": name, "source_before": {"mean": 1.0, "sem": 0.0, "n": 3}, "source_after": SUMMARY, "paired": paired,
            "adaptation": None, "average_accuracy": SUMMARY, "seconds": SUMMARY, **changes}


def written(folder, monkeypatch):
    """A results file of two methods."""
    monkeypatch.setattr(page, "RESULTS", folder)
    better = {"mean": 0.9, "sem": None, "n": 1}
    candidates = {"rate": [{"candidate": 0.1, "score": 0.2}, {"candidate": 0.01, "score": 0.3}],
                  "ewc": [{"candidate": {"strength": 1.0, "labels": "sampled"}, "score": 0.1},
                          {"candidate": {"strength": 10.0, "labels": "sampled"}, "score": 0.2}]}
    content = {
        "environment": {"versions": {"torch": "2.15"}, "device": "a machine", "threads": 1},
        "table": [row("finetune"), row("finetune-moving", paired=None), row("ewc", source_after=better)],
        "runs": [{"seconds": 10.0}, {"seconds": 20.0}],
        "chosen": {"rate": 0.01, "settings": {"ewc": candidates["ewc"][1]["candidate"]}, "candidates": candidates},
    }
    (folder / f"{page.STUDIES['vision']}.json").write_text(json.dumps(content))


def test_the_page_is_what_the_results_say():
    assert not pages.stale(page.PAGES, page.TABLES), "make it anew: python -m benchmarks.retention.page"
    assert set().union(*map(pages.names, page.PAGES)) == set(page.TABLES)


def test_methods_are_shown_with_intervals(tmp_path, monkeypatch):
    written(tmp_path, monkeypatch)
    lines = page.methods("vision").splitlines()
    assert [line.split("]")[0] for line in lines[2:5]] == ["| [finetune", "| [finetune-moving", "| [ewc"]
    assert "| 50.0 (45.7 to 54.3) |" in lines[2]  # Student's t at 2 degrees of freedom: 4.303 · 0.01
    assert "| 90.0 | +40.0 (+30.0 to +50.0) | 0.0034 | – |" in lines[4]
    assert "norm statistics still: the source falls by 50.0 points, from 100.0 to 50.0 % (3 seeds)" in "\n".join(lines)
    assert "2 runs of 15 s on average" in lines[-1]


def test_every_candidate_is_shown(tmp_path, monkeypatch):
    written(tmp_path, monkeypatch)
    lines = page.tried("vision").splitlines()
    assert lines[2:] == ["| fine-tuning, rate | 0.1: 20.0; 0.01: 30.0 | 0.01 |",
                         "| ewc, strength | 1: 10.0; 10: 20.0 | 10 |"]


def test_what_was_not_run_is_not_shown(tmp_path, monkeypatch):
    monkeypatch.setattr(page, "RESULTS", tmp_path)
    assert page.methods("vision") == page.tried("text") == ""
