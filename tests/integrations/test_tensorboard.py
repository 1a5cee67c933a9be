"""What reaches TensorBoard, read back by its own reader; and that wandb and TensorBoard are told the same."""

import builtins
import sys

import pytest

import forgetting
from forgetting.integrations.sinks import Sink, observed
from forgetting.integrations.tensorboard import observing
from forgetting.protocol import Method, Recipe
from tests.integrations.test_wandb import EVENTS, RECIPE, RESULT, START, failing

pytest.importorskip("tensorboard", reason="tensorboard comes with the extra: tensorboard")


def read(folder):
    """Scalars and texts of the event files below a folder: tag -> (step, value)."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (found,) = folder.iterdir()
    log = EventAccumulator(str(found)).Reload()
    scalars = {tag: [(event.step, pytest.approx(event.value)) for event in log.Scalars(tag)]
               for tag in log.Tags()["scalars"]}
    texts = {tag: log.Tensors(tag)[0].tensor_proto.string_val[0].decode() for tag in log.Tags()["tensors"]}
    return found.name, scalars, texts


def test_steps_tasks_and_summary(tmp_path):
    with observing(RECIPE, 5, directory=tmp_path) as observe:
        for event in (START, *EVENTS, RESULT):
            observe(event)
    name, scalars, texts = read(tmp_path)
    assert name == "digits-transfer-ewc-seed5-abc123"
    summary = {tag: scalars.pop(tag) for tag in list(scalars) if tag.startswith("summary/")}
    assert scalars == {
        "pretraining/loss": [(10, 0.9)], "pretraining/accuracy/digits": [(10, 0.5)],
        "consolidation_seconds": [(2, 0.25)],
        "task_2/loss": [(20, 0.5)], "task_2/penalty": [(20, 0.1)], "task_2/pull": [(20, 0.2)],
        "task_2/gradient": [(20, 0.4)], "task_2/ratio": [(20, 0.5)],
        "task_2/accuracy/digits": [(20, 0.7)], "task_2/accuracy/rotated": [(20, 0.6)],
        "seconds": [(2, 1.5)], "learned/1": [(2, 0.7)], "learned/2": [(2, 0.8)],
    }
    assert summary["summary/retention"] == [(2, 0.75)]
    assert summary["summary/forgetting"] == [(2, 0.2)]
    assert summary["summary/source_after_with_old_statistics"] == [(2, 0.7)]
    assert '"strength": 3.0' in texts["recipe/text_summary"]
    assert "0.6" in texts["accuracy_matrix/text_summary"]


def test_a_real_run(tmp_path):
    recipe = Recipe("digits-transfer", Method("plain"), epochs=1, pretraining_epochs=1)
    with observing(recipe, directory=tmp_path) as observe:
        result = forgetting.run(recipe, observe=observe)
    _, scalars, _ = read(tmp_path)
    assert [value for _, value in scalars["learned/1"]] == result.accuracy[2:, 0].tolist()
    assert scalars["summary/average_accuracy"][0][1] == result.accuracy[-1].mean()


class Log(Sink):
    """A sink of one's own: five lines."""

    def __init__(self):
        self.said = []

    def open(self, start):
        self.said.append(("open", start["key"]))

    def row(self, figures, event):
        self.said.append((event["event"], sorted(figures)))

    def summary(self, figures):
        self.said.append(("summary", figures["retention"]))

    def close(self, *, failed):
        self.said.append(("close", failed))


def test_any_sink_is_opened_told_and_closed():
    log = Log()
    with observed(log) as observe:
        for event in (START, EVENTS[1], {"event": "resume", "task": 1}, RESULT):
            observe(event)
    assert log.said == [("open", "abc123"), ("consolidation", ["consolidation_seconds", "task"]),
                        ("summary", pytest.approx(0.75)), ("close", False)]


def test_a_sink_is_closed_as_failed_where_an_exception_passes_and_never_where_nothing_began():
    log = Log()
    with pytest.raises(KeyError, match="accuracy"), observed(log) as observe:
        failing(observe)
    assert log.said[-1] == ("close", True)
    log = Log()
    with observed(log):
        pass
    assert log.said == []


def test_without_tensorboard_the_error_says_what_to_install(monkeypatch):
    found = builtins.__import__

    def without(name, *arguments, **keywords):
        if name.partition(".")[0] == "tensorboard":
            raise ModuleNotFoundError("No module named 'tensorboard'", name="tensorboard")
        return found(name, *arguments, **keywords)

    for name in [name for name in sys.modules if name.startswith(("tensorboard", "torch.utils.tensorboard"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ModuleNotFoundError, match="extra 'tensorboard'"), observing(RECIPE, 5):
        pass
