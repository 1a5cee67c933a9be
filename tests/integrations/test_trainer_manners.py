"""What a Trainer logs, saves and refuses with a callback of ours, and what the pages show."""

import copy
import runpy

import pytest
import torch

from forgetting import EWC, L2SP, SI, LwF
from forgetting.integrations.transformers import as_trainer_callback
from tests.house.sources import ROOT
from tests.house.test_pages import blocks
from tests.integrations.loops import STRENGTH, apart, gpt, held, sequences
from tests.integrations.test_trainer import Held, Killed, Killer, own_chance, trainer, transformers  # noqa: F401


class Reporter(transformers.TrainerCallback):
    """Keeps what a service would get."""

    def __init__(self):
        self.rows = []

    def on_log(self, args, state, control, logs=None, **others):
        self.rows.append(dict(logs))


class Dividing(Held):
    """A Trainer that divides the loss by the number of micro-batches itself, as for models that take no loss kwargs."""

    def __init__(self, *arguments, **keywords):
        super().__init__(*arguments, **keywords)
        self.model_accepts_loss_kwargs = False


@pytest.mark.parametrize(("mode", "kind"), [("gradient", transformers.Trainer), ("loss", Held), ("loss", Dividing)])
def test_the_penalty_is_logged_apart_and_the_loss_stays_the_tasks(mode, kind, tmp_path):
    model, ewc = gpt(), held(gpt())
    free, before = copy.deepcopy(model), ewc.penalty(model).item()
    callback, reporter = as_trainer_callback(ewc, mode=mode), Reporter()
    run = trainer(model, tmp_path, [reporter], kind=kind, max_steps=2, logging_steps=1, gradient_accumulation_steps=4)
    run.callback_handler.callbacks.insert(0, callback)
    run.train()
    other = trainer(free, tmp_path, kind=kind, max_steps=2, logging_steps=1, gradient_accumulation_steps=4)
    other.train()
    history = [row for row in run.state.log_history if "loss" in row]
    assert history[0]["loss"] == other.state.log_history[0]["loss"]
    assert apart(model, free) > 1e-3
    assert [row["penalty/EWC"] for row in reporter.rows if "loss" in row] == [row["penalty/EWC"] for row in history]
    assert all("penalty/EWC" not in row for row in run.state.log_history if "loss" not in row)
    if mode == "gradient":
        assert history[-1]["penalty/EWC"] == pytest.approx(ewc.penalty(model).item(), rel=1e-6)
    else:
        assert history[0]["penalty/EWC"] == pytest.approx(before, rel=1e-6)


def test_nothing_is_left_on_the_optimizer(tmp_path):
    model = gpt()
    run = trainer(model, tmp_path, [as_trainer_callback(held(model))], max_steps=1)
    run.train()
    inner = run.optimizer.optimizer
    assert not inner._optimizer_step_pre_hooks
    assert not inner._optimizer_step_post_hooks
    run.train()
    callback = as_trainer_callback(held(model))
    broken = trainer(model, tmp_path, [callback, Killer(0)])
    with pytest.raises(Killed):
        broken.train()
    assert broken.optimizer.optimizer._optimizer_step_pre_hooks
    callback.remove()
    assert not broken.optimizer.optimizer._optimizer_step_pre_hooks
    with pytest.raises(Killed):
        broken.train()
    with pytest.raises(Killed):
        broken.train()
    assert len(broken.optimizer.optimizer._optimizer_step_pre_hooks) == 1


def test_a_trainers_evaluation_holds_no_penalty(tmp_path):
    model = gpt()
    run = trainer(model, tmp_path, [as_trainer_callback(held(model), mode="loss")], kind=Held)
    with_penalty = run.evaluate(sequences(4))["eval_loss"]
    assert with_penalty == trainer(model, tmp_path).evaluate(sequences(4))["eval_loss"]


def test_what_cannot_be_done_is_refused_with_the_reason(tmp_path):
    model = gpt()
    with pytest.raises(TypeError, match="takes a Regularizer"):
        as_trainer_callback("ewc")
    with pytest.raises(ValueError, match="offers loss.*PenaltyInLoss, Trainer"):
        as_trainer_callback(LwF(1.0))
    with pytest.raises(RuntimeError, match="stand PenaltyInLoss before"):
        trainer(model, tmp_path, [as_trainer_callback(LwF(1.0), mode="loss")]).train()
    with pytest.raises(ValueError, match="another callback has attached a EWC"):
        trainer(model, tmp_path, [as_trainer_callback(held(model)), as_trainer_callback(held(model))]).train()
    with pytest.warns(UserWarning, match="EWC was not consolidated, so it holds nothing"):
        trainer(model, tmp_path, [as_trainer_callback(EWC(1.0))], max_steps=1).train()
    model.transformer.wpe.weight.ds_id = 0
    with pytest.raises(ValueError, match="DeepSpeed ZeRO-3 cuts the weights in pieces .*wpe.weight"):
        trainer(model, tmp_path, [as_trainer_callback(held(model))]).train()


def test_two_regularizers_of_different_classes_share_a_run(tmp_path):
    model = gpt()
    l2sp = L2SP(0.1)
    l2sp.consolidate(model)
    run = trainer(model, tmp_path, [as_trainer_callback(held(model)), as_trainer_callback(l2sp)], max_steps=1,
                  logging_steps=1, save_strategy="steps", save_steps=1)
    run.train()
    assert {"penalty/EWC", "penalty/L2SP", "loss"} <= set(run.state.log_history[0])
    folder = tmp_path / "checkpoint-1"
    assert {path.name for path in folder.glob("penalty-*")} == {"penalty-EWC.pt", "penalty-L2SP.pt"}
    assert torch.load(folder / "penalty-L2SP.pt", weights_only=True)["class"] == "L2SP"


def test_a_checkpoint_elsewhere_is_loaded_by_hand_and_one_without_a_state_is_refused(tmp_path):
    settings = {"save_strategy": "steps", "save_steps": 2, "examples": sequences(20)}
    model = gpt()
    trainer(model, tmp_path / "old", [as_trainer_callback(held(model))], max_steps=4, **settings).train()
    (tmp_path / "old").rename(tmp_path / "moved")
    there, again = tmp_path / "moved" / "checkpoint-2", gpt()
    callback = as_trainer_callback(EWC(STRENGTH))
    run = trainer(again, tmp_path / "new", [callback], max_steps=4, **settings)
    with pytest.raises(FileNotFoundError, match=r"has no .*penalty-EWC.pt.*callback.load\(folder\)"):
        run.train(resume_from_checkpoint=str(there))
    callback.load(there)
    trainer(again, tmp_path / "new", [callback], max_steps=4, **settings).train(resume_from_checkpoint=str(there))
    assert apart(model, again) == 0


def test_trl_trainers_inherit_it(tmp_path):
    pytest.importorskip("trl", reason="trl is not installed")
    datasets, tokenizers = pytest.importorskip("datasets"), pytest.importorskip("tokenizers")
    from trl import SFTConfig, SFTTrainer

    words = {word: index for index, word in enumerate(["<end>", *"abcdefghijkl"])}
    spelled = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<end>"))
    spelled.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    spelled = transformers.PreTrainedTokenizerFast(tokenizer_object=spelled, eos_token="<end>", pad_token="<end>")
    model, si = gpt(), SI(1.0)
    free, ewc = copy.deepcopy(model), held(model, strength=20.0)
    for trained, callbacks in ((free, []), (model, [as_trainer_callback(ewc), as_trainer_callback(si)])):
        arguments = SFTConfig(str(tmp_path), max_steps=3, per_device_train_batch_size=2, gradient_accumulation_steps=2,
                              report_to="none", use_cpu=True, bf16=False, disable_tqdm=True, max_length=6,
                              logging_steps=1, save_strategy="no", learning_rate=0.01)
        data = datasets.Dataset.from_dict({"text": ["a b c d", "e f g h", "i j k l", "a c e g"] * 4})
        run = SFTTrainer(trained, arguments, train_dataset=data, processing_class=spelled, callbacks=callbacks)
        run.train()
    assert all(row["penalty/EWC"] > 0 for row in run.state.log_history if "loss" in row)
    assert ewc.penalty(model) < ewc.penalty(free)
    assert si._path["integral"]


@pytest.mark.parametrize("name", ["trainer", "accelerate"])
def test_the_page_runs(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path, namespace = ROOT / "docs" / "integrations" / f"{name}.md", {"__name__": "page"}
    found = blocks(path.read_text(encoding="utf-8"), "python")
    torch.manual_seed(0)
    for line, code, _ in found:
        exec(compile("\n" * (line - 1) + code, str(path), "exec"), namespace)
    assert found


def test_the_example_of_ten_lines_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = ROOT / "docs" / "examples" / "trainer.py"
    run = runpy.run_path(str(path))["trainer"]
    assert any(row.get("penalty/L2SP", 0) > 0 for row in run.state.log_history)
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 20
