"""The page about speed says what the results say, and the promise has all its rows."""

import json
import subprocess
import sys

import pytest

from benchmarks import pages
from benchmarks.speed import clock, memory, plan, table, tables
from benchmarks.speed.models import CPU
from benchmarks.speed.store import Store
from tests.house.sources import ROOT

PROMISED = {  # must, aim, peak memory, each ÷ forward+backward
    "mlp": (1.25, 1.10, None), "cnn": (1.25, 1.10, 1.4), "resnet18-32": (1.45, 1.20, 1.2),
    "resnet18-112": (1.40, 1.20, 1.3), "efficientnet-lite0": (1.30, 1.12, 1.2), "vit-tiny": (1.15, 1.08, 1.2),
    "bert": (1.25, 1.12, 1.7), "gpt2": (1.20, 1.10, 1.2),
}


def test_the_page_is_what_the_results_say():
    assert pages.names(table.PAGE) == set(table.TABLES)
    assert not pages.stale([table.PAGE], table.TABLES), "make it anew: python -m benchmarks.speed.table"


def test_the_promise_is_whole():
    assert {name: (row.must, row.aim, row.memory) for name, row in CPU.items()} == PROMISED


def test_kept_results_are_of_rows_that_exist():
    for device in ("cpu", "cuda"):
        known = {item.key for item in plan.items(device, plan.OURS + plan.OTHERS)}
        assert set(table.entries(device)) <= known


def test_a_broken_promise_is_marked():
    time = {"median": 1.30, "lower": 1.2, "upper": 1.4}
    entry = {"title": "a model", "must": 1.25, "aim": 1.1, "memory_must": 1.2, "time": time, "time_of_one_batch": time,
             "forward_backward_seconds": 0.1, "routes": {"linear": 1, "vmap": 1},
             "error": {"worst": 1e-3, "loop": 1e-7, "allowed": 1e-5, "float64": 1e-15},
             "peaks": {name: {"bytes": size} for name, size in
                       (("forward+backward", 100), ("diagonal", 110), ("stream", 140))}}
    row = tables.empirical({"one": entry}).splitlines()[-1]
    assert row.count("✗") == 3, row
    assert row.count("✓") == 1, row
    assert "| vmap |" in row
    kept = {**entry, "time": {**time, "median": 1.25}}
    assert "1.25 (1.20–1.40) ✓" in tables.empirical({"one": kept})


def test_peers_are_compared_with_ours_in_their_own_run():
    def peer(title, **found):
        return {"title": title, "package": "torch", "version": "1", **found}

    time = {"median": 2.0, "lower": 2.0, "upper": 2.0}
    entries = {"one/loop": peer("loop", status="right", time=time, to_ours={"median": 0.9}),
               "one/asdl": peer("asdl", status="wrong", error={"whole": None}),
               "one/opacus": peer("opacus", status="crash", exception="TypeError: no")}
    text = tables.peers(entries, {"one": {"title": "a model", "time": time}})
    assert "| a model | 2.00 | 2.00 | crash | wrong NaN | 0.90 × ✗ (loop) |" in text
    assert "- opacus on one: `TypeError: no`" in text


def test_rounds_are_interleaved_and_the_first_does_not_count():
    order = []
    times = clock.interleave({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 3)
    assert "".join(order) == "abbaabba"
    assert [len(values) for values in times.values()] == [3, 3]
    assert clock.ratio({"a": [2.0, 4.0, 9.0], "b": [1.0, 2.0, 3.0]}, "a", "b")["median"] == 2.0


def test_peak_memory_is_that_of_live_blocks():
    import torch

    def two_after_one() -> None:
        first = torch.ones(2**20)
        del first
        kept = torch.ones(2**20), torch.ones(2**19)
        del kept

    assert memory.peak(two_after_one) == pytest.approx(6 * 2**20, rel=0.01)


def test_results_of_two_environments_do_not_mix(tmp_path):
    file = tmp_path / "cpu.json"
    Store(file, {"processor": "one"}).add("empirical/mlp", {"time": float("nan")})
    assert json.loads(file.read_text())["entries"] == {"empirical/mlp": {"time": None}}
    assert "empirical/mlp" in Store(file, {"processor": "one"}).entries
    with pytest.raises(ValueError, match="made elsewhere.*one.*--fresh"):
        Store(file, {"processor": "other"})
    assert Store(file, {"processor": "other"}, fresh=True).entries == {}


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_dry_run_lists_every_row(device):
    done = subprocess.run([sys.executable, "-m", "benchmarks.speed", "--dry-run", "--peers", "--device", device],
                          cwd=ROOT, check=True, capture_output=True, text=True, timeout=120)
    rows = {line.split()[0] for line in done.stdout.splitlines()[:-1]}
    assert {f"empirical/{name}" for name in plan.ROWS[device]} <= rows
