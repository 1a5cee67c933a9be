"""The command from images to the results file, and again from what its store holds."""

import functools
import json

import pytest
import torch
from click.testing import CliRunner

from benchmarks.retention import transfer as command
from benchmarks.retention import transfer_networks as networks
from forgetting.tasks.sizes import Sizes
from tests.retention.made import images

SMALL = ["--shares", "20,100", "--seeds", "1", "--steps", "2", "--train", "60", "--validation", "10", "--test", "20",
         "--every", "1"]


@pytest.fixture
def invoked(tmp_path, monkeypatch):
    """The command on made-up images."""
    images(monkeypatch, tmp_path)
    monkeypatch.setattr(command, "RESULTS", tmp_path)

    def invoke(*arguments):
        found = CliRunner().invoke(command.main, [*SMALL, "--out", str(tmp_path / "out"), *arguments])
        assert found.exit_code == 0, found.output
        return found.output

    return invoke


def test_an_mlp_from_images_to_file_and_again(invoked, tmp_path, monkeypatch):
    monkeypatch.setattr(networks, "_IMAGES", 100)
    some = ("--weights", "permuted-mnist", "--target", "MNIST", "--chosen-at", "100")
    output = invoked(*some, "--record", "some")
    assert "not decided at 1 seed" in output
    content = json.loads((tmp_path / "transfer-some.json").read_text())
    assert content["about"]["weights"] == "permuted-mnist"
    assert {(run["arm"], run["share"]) for run in content["runs"]} == {
        (arm, share) for arm in ("finetune", "scratch", "linear-probe") for share in (0.2, 1.0)}
    monkeypatch.setattr(torch.optim.SGD, "step", lambda *_, **__: pytest.fail("a step was taken again"))
    invoked(*some, "--record", "again")
    assert json.loads((tmp_path / "transfer-again.json").read_text())["runs"] == content["runs"]


def test_a_classifier_learns_in_columns_of_its_own(invoked, tmp_path, monkeypatch):
    pytest.importorskip("timm")
    monkeypatch.setattr(command, "Sizes", functools.partial(Sizes, source_test=10))
    invoked("--network", "test_resnet", "--weights", "none", "--target", "CIFAR-10", "--pixels", "16", "--train", "20",
            "--validation", "5", "--chosen-at", "100", "--test", "10", "--shares", "100")
    content = json.loads((tmp_path / "out" / "transfer.json").read_text())
    assert len(content["chosen"]) == 3
    assert [run["arm"] for run in content["runs"]] == ["finetune", "scratch", "linear-probe"]
    results = [json.loads(file.read_text()) for file in (tmp_path / "out" / "runs").rglob("*.json")]
    assert len(results) >= 15
