"""What the callback logs, keeps, leaves behind and refuses."""

from __future__ import annotations

import copy
import csv

import pytest
import torch
from torch import nn

from forgetting.integrations.lightning import _refuse, _sums, as_lightning_callback
from forgetting.regularizers import EWC, L2SP, LwF
from tests.house.sources import ROOT
from tests.integrations.test_lightning import (
    OPTIMIZERS,
    STEPS,
    STRENGTH,
    batches,
    distance,
    ewc,
    fit,
    importances,
    module,
    network,
    plain,
    trainer,
)

pytest.importorskip("pytorch_lightning", reason="the extra 'lightning' is not installed")
pytestmark = pytest.mark.filterwarnings("ignore:.*(does not have many workers|LeafSpec|log_every_n_steps)")


def test_the_penalty_is_logged_apart_from_the_loss_every_so_many_steps(tmp_path):
    from pytorch_lightning.loggers import CSVLogger

    made = module()
    known = ewc(made)
    logger = CSVLogger(tmp_path)
    fit(made, trainer(as_lightning_callback(known), logger=logger, log_every_n_steps=5, accumulate=4), STEPS * 4)
    (file,) = tmp_path.rglob("metrics.csv")
    rows = [row for row in csv.DictReader(file.open()) if row["penalty/EWC"]]
    assert [row["step"] for row in rows] == ["4", "9", "14", "19"]
    model = plain(accumulate=4, steps=19)
    anchor = dict(network().named_parameters())
    value = sum((importances("")[name] * (weight - anchor[name]).square()).sum() for name, weight in
                model.named_parameters())
    assert float(rows[-1]["penalty/EWC"]) == pytest.approx(0.5 * STRENGTH * value.item(), rel=1e-4)
    assert float(rows[-1]["loss"]) < 2.5


def test_two_regularizers_pull_each_once_and_keep_their_states_apart(tmp_path):
    made = module()
    first, second = ewc(made, 0.3), L2SP(0.4)
    second.consolidate(made)
    running = trainer(*map(as_lightning_callback, (first, second)), default_root_dir=tmp_path)
    fit(made, running, STEPS)
    model = network()
    anchor, where = copy.deepcopy(model.state_dict()), importances("")
    stepping = OPTIMIZERS["SGD"](model.parameters())
    for inputs, targets in batches(STEPS):
        stepping.zero_grad()
        nn.functional.cross_entropy(model(inputs), targets).backward()
        with torch.no_grad():
            for name, weight in model.named_parameters():
                weight.grad += (0.3 * where[name] + 0.4) * (weight - anchor[name])
        stepping.step()
    assert distance(made.network, model) < 1e-5
    running.save_checkpoint(tmp_path / "both.ckpt")
    kept = torch.load(tmp_path / "both.ckpt", weights_only=True)["callbacks"]
    assert {state["class"] for state in kept.values()} == {"EWC", "L2SP"}


def test_a_part_has_the_names_of_what_was_consolidated():
    made, known = module(), EWC(STRENGTH)
    known.consolidate(made.network, curvature=importances(""))
    fit(made, trainer(as_lightning_callback(known, part="network")), STEPS)
    assert distance(made.network, plain()) < 1e-5
    with pytest.raises(ValueError, match="no such submodule; it has network"):
        fit(module(), trainer(as_lightning_callback(known, part="body")), STEPS)


def test_nothing_is_left_on_the_optimizer_after_a_run_and_after_a_failure():
    made = module()
    known = ewc(made)
    running = trainer(as_lightning_callback(known))
    fit(made, running, STEPS)
    (optimizer,) = running.optimizers
    assert not optimizer._optimizer_step_pre_hooks

    def fails(self):
        raise ArithmeticError

    made = module(penalty=fails)
    running = trainer(as_lightning_callback(ewc(made)))
    with pytest.raises(ArithmeticError):
        fit(made, running, STEPS)
    assert not running.optimizers[0]._optimizer_step_pre_hooks


def test_what_cannot_work_is_refused_by_name(monkeypatch):
    with pytest.raises(ValueError, match="mode='gradient': LwF offers loss"):
        as_lightning_callback(LwF(1.0))
    with pytest.raises(TypeError, match="takes a Regularizer, not a str"):
        as_lightning_callback("ewc")
    made = module()
    callback = as_lightning_callback(ewc(made))
    running = trainer(callback)
    reasons = {"FSDPStrategy": "flattens", "DeepSpeedStrategy": "ZeRO-3", "ModelParallelStrategy": "shards"}
    for kind, reason in reasons.items():
        monkeypatch.setattr(type(running), "strategy", type(kind, (), {})())
        with pytest.raises(ValueError, match=f"{kind} is not supported: .*{reason}"):
            callback.on_train_start(running, made)
    monkeypatch.undo()
    monkeypatch.setitem(OPTIMIZERS, "SGD", torch.optim.LBFGS)
    with pytest.raises(ValueError, match="LBFGS evaluates its closure several times"):
        fit(made, running, STEPS)


def test_processes_that_remember_different_things_are_an_error_on_each(monkeypatch):
    made = module()
    known, other, running = ewc(made), ewc(made), trainer()
    other.consolidate(made, curvature=importances().scaled(2.0))

    def gather(found, mine):
        found[:] = [mine, mine if alike else _sums(other.state_dict())]

    monkeypatch.setattr(type(running), "world_size", 2)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    alike = True
    _refuse(running, known)
    alike = False
    with pytest.raises(ValueError, match="EWC of process 1 remembers something else"):
        _refuse(running, known)


def test_a_regularizer_that_holds_nothing_says_so():
    made = module()
    with pytest.warns(UserWarning, match="EWC was not consolidated, so it holds nothing"):
        fit(made, trainer(as_lightning_callback(ewc())), STEPS)


def test_a_step_around_the_trainer_is_an_error_and_not_a_penalty_that_vanishes():
    made = module()
    made.optimizer_step = lambda epoch, index, optimizer, closure: optimizer.optimizer.step(closure)
    with pytest.raises(RuntimeError, match="nobody said when its gradients were there"):
        fit(made, trainer(as_lightning_callback(ewc(made))), STEPS)


def test_the_example_of_the_page_runs():
    source = (ROOT / "docs" / "examples" / "lightning.py").read_text(encoding="utf-8")
    namespace: dict[str, object] = {"__name__": "lightning_example"}
    exec(compile(source, "lightning.py", "exec"), namespace)
    made = module()
    made.forward = made.network.forward
    before = network()
    namespace["adapt"](made, batches(3), torch.utils.data.DataLoader(batches(5), batch_size=None))
    assert distance(made.network, before) > 0
