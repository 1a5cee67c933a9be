"""The command: choose on validation data, run, go on where it stopped; folders that do not fit get a clear error."""

import json

import pytest
from click.testing import CliRunner

from benchmarks.retention import candidates, choice, study
from benchmarks.retention.__main__ import main
from forgetting import methods
from forgetting.integrations.ray import Ray
from forgetting.protocol import Diverged, Divergence, Processes, Recipe, Store, Swept
from forgetting.tasks import given
from forgetting.tasks.sizes import Sizes
from tests.retention import made
from tests.tasks.test_labelled import write

pytest.importorskip("timm", reason="timm is not installed (extra: vision)")
FAST = ("vision", "--network", "test_efficientnet", "--weights", "none", "--pixels", "32", "--train", "8", "--epochs",
        "1", "--batch", "4", "--seeds", "1")


@pytest.fixture(autouse=True)
def small(monkeypatch, tmp_path):
    """Little data, few candidates."""
    made.images(monkeypatch, tmp_path / "data")
    monkeypatch.setitem(given.SIZES, "images", Sizes(validation=4, test=4, source_test=8))
    monkeypatch.setattr(candidates, "RATES", {"vision": (0.001, 0.1)})
    monkeypatch.setattr(candidates, "CANDIDATES", {"vision": {"l2sp": ({"strength": 0.1}, {"strength": 1.0})}})
    for name in ("RATES", "CANDIDATES"):
        monkeypatch.setattr(f"benchmarks.retention.choice.{name}", getattr(candidates, name))


def call(*words, out):
    return CliRunner().invoke(main, [*FAST, "--out", str(out), *words], catch_exceptions=False)


def test_it_chooses_runs_and_goes_on(tmp_path):
    out = tmp_path / "out"
    first = call("--methods", "finetune,l2sp", out=out)
    assert first.exit_code == 0, first.output
    chosen = json.loads((out / "chosen.json").read_text())
    assert chosen["rate"] in (0.001, 0.1)
    assert [entry["candidate"] for entry in chosen["candidates"]["l2sp"]] == [{"strength": 0.1}, {"strength": 1.0}]
    runs = {(run.method, run.seed): run for run in Store(out / "runs").results()}
    assert set(runs) == {("finetune", 0), ("l2sp", 0), ("finetune-moving", 0)}
    assert {run.recipe["rate"] for run in runs.values()} == {chosen["rate"]}
    assert runs["l2sp", 0].recipe["method"]["settings"] == chosen["settings"]["l2sp"]
    assert runs["finetune-moving", 0].recipe["norm_statistics"] == "moving"
    assert all(run.accuracy[0, 0] == 1.0 for run in runs.values())
    choosing = list(Store(out / "choice").results())
    assert {run.seed for run in choosing} == {candidates.FIRST_SEED}
    assert all(run.validation is None for run in choosing)
    known = {path: path.stat().st_mtime_ns for path in out.rglob("*.json")}
    assert call("--methods", "finetune,l2sp", out=out).exit_code == 0
    assert {path: path.stat().st_mtime_ns for path in known} == known


def test_a_dry_run_trains_nothing(tmp_path):
    said = call("--methods", "finetune,l2sp", "--dry-run", out=tmp_path / "out")
    assert "4 runs to choose, 3 to report" in said.output
    assert not (tmp_path / "out").exists()


def test_labelled_folders_work_from_end_to_end(tmp_path):
    for name in ("0_red", "3"):
        write(tmp_path / "photos", name, count=20, size=(40, 36), grey=int(name[0]) * 60)
    words = ("--methods", "finetune", "--source", str(tmp_path / "photos"))
    said = call(*words, out=tmp_path / "out")
    assert said.exit_code == 0, said.output
    (result,) = [run for run in Store(tmp_path / "out" / "runs").results() if run.method == "finetune"]
    assert result.tasks[0] == "source (labels)"
    assert len(result.correct[0][0]) == 8
    turned = call(*words, "--shift", "rotation", "--dry-run", out=tmp_path / "turned")
    assert "domain-incremental" in turned.output


@pytest.mark.parametrize(("names", "words", "error"), [
    ((), (), "photos is no folder"),
    (("1",), (), "images of one class only"),
    (("1", "cat"), (), "cat: the folder names no class of the model"),
    (("1", "99999"), (), "class 99999, but the model has the classes 0…"),
])
def test_wrong_folders_get_a_clear_error(tmp_path, names, words, error):
    for name in names:
        write(tmp_path / "photos", name, count=3)
    said = call("--source", str(tmp_path / "photos"), *words, out=tmp_path / "out")
    assert said.exit_code == 1
    assert error in said.output


def test_options_that_do_not_fit_are_refused(tmp_path):
    assert "there is no method 'ewcc'; did you mean 'ewc'" in call("--methods", "ewcc", out=tmp_path).output
    assert "--classes names the folders of --source" in call("--classes", "x.json", out=tmp_path).output
    assert "leave --workers away" in call("--ray", "auto", "--workers", "2", out=tmp_path).output


def test_a_candidate_that_diverges_is_never_chosen_and_keeps_its_place():
    tried = [(rate, Recipe("digits-transfer", methods.get("finetune"), rate=rate)) for rate in (0.1, 0.2, 0.3)]

    def sweep(recipes, seeds):
        lost = [Divergence(recipes[1], seeds[0], Diverged("the loss is nan"))]
        return Swept([recipes[0].rate, recipes[2].rate], lost)

    best, table = choice.best(tried, sweep, lambda result: 1 - result)
    assert best == 0.1
    assert [entry["score"] for entry in table] == [0.9, -1.0, 0.7]


def test_runs_are_computed_where_they_were_asked_for():
    assert study.executor(1, None, "cpu") is None
    assert isinstance(study.executor(3, None, "cpu"), Processes)
    for device, gpus in (("cpu", 0.0), ("cuda:0", 1.0)):
        cluster = study.executor(1, "10.0.0.1:6379", device)
        assert isinstance(cluster, Ray)
        assert (cluster.address, cluster.gpus) == ("10.0.0.1:6379", gpus)
