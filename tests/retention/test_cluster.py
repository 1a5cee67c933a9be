"""The study on a Ray cluster of two processes: what it gives there is what it gives here, though a worker is killed."""

import threading
import time

import pytest
from click.testing import CliRunner

from benchmarks.retention import candidates
from benchmarks.retention.__main__ import main
from forgetting.protocol import Store
from forgetting.tasks import given
from forgetting.tasks.sizes import Sizes
from tests.retention import made

pytest.importorskip("timm", reason="timm is not installed (extra: vision)")
pytestmark = pytest.mark.slow
STRENGTHS = ({"strength": 0.1}, {"strength": 1.0})
WORDS = ("vision", "--network", "test_efficientnet", "--weights", "none", "--pixels", "32", "--train", "8", "--epochs",
         "1", "--batch", "4", "--seeds", "2", "--methods", "finetune,l2sp")


@pytest.fixture
def address(monkeypatch):
    """A cluster of one node with two processors; connected once, so that its workers import torch once."""
    ray = pytest.importorskip("ray", reason="the extra 'ray' is not installed")
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
    try:
        ray.init(address=cluster.address, log_to_driver=False)
        yield cluster.address
    finally:
        ray.shutdown()
        cluster.shutdown()


@pytest.fixture(autouse=True)
def small(monkeypatch, tmp_path):
    """Little data, few candidates."""
    made.images(monkeypatch, tmp_path / "data")
    monkeypatch.setitem(given.SIZES, "images", Sizes(validation=4, test=4, source_test=8))
    for module in (candidates, "benchmarks.retention.choice"):
        where = module if isinstance(module, str) else module.__name__
        monkeypatch.setattr(f"{where}.RATES", {"vision": (0.001, 0.1)})
        monkeypatch.setattr(f"{where}.CANDIDATES", {"vision": {"l2sp": STRENGTHS}})


def study(out, *words):
    said = CliRunner().invoke(main, [*WORDS, "--out", str(out), *words], catch_exceptions=False)
    assert said.exit_code == 0, said.output


def figures(store):
    return {(run.method, run.seed, run.recipe["rate"], str(run.recipe["method"]["settings"])): run.figures()
            for run in Store(store).results()}


def kill_one(journal, killed, ended):
    """Kill a worker that computes a run, as soon as a task of a reported run was learned."""
    import psutil

    while not ended.is_set():
        if journal.exists() and journal.stat().st_size:
            for process in psutil.process_iter(["name", "cmdline", "ppid"]):
                shown = " ".join(process.info["cmdline"] or [])
                if shown.startswith("ray::_run") and ours(process):
                    process.kill()
                    killed.append(process.pid)
                    return
        time.sleep(0.005)


def ours(process):
    """Whether this very process began it."""
    import psutil

    return psutil.Process().pid in [parent.pid for parent in process.parents()]


def test_a_killed_workers_run_is_taken_up_again(address, tmp_path):
    study(tmp_path / "here")
    killed, ended = [], threading.Event()
    watch = threading.Thread(target=kill_one, args=(tmp_path / "there" / "runs" / "journal.jsonl", killed, ended))
    watch.start()
    try:
        with pytest.warns(UserWarning, match="was lost .WorkerCrashedError.; the run is taken up again"):
            study(tmp_path / "there", "--ray", address)
    finally:
        ended.set()
        watch.join()
    assert len(killed) == 1
    for store in ("choice", "runs"):
        assert figures(tmp_path / "there" / store) == figures(tmp_path / "here" / store)
    assert (tmp_path / "there" / "chosen.json").read_text() == (tmp_path / "here" / "chosen.json").read_text()
    runs = Store(tmp_path / "there" / "runs").results()
    assert {(run.method, run.seed) for run in runs} == {
        (method, seed) for method in ("finetune", "finetune-moving", "l2sp") for seed in range(2)}
    trained = [(line["run"], line["task"]) for line in Store(tmp_path / "there" / "runs").journal()]
    assert len(trained) == len(set(trained))
