"""Weights from files, whatever they were saved from."""

import pytest
import safetensors.torch
import torch
from torch import nn

from forgetting.diagnosis import load
from tests.diagnosis.small import cnn, seeded


@pytest.fixture
def trained():
    return seeded(cnn, 5)


def fresh():
    return seeded(cnn)


def same(one, other):
    return all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


def test_safetensors_and_torch(trained, tmp_path):
    safetensors.torch.save_file(trained.state_dict(), tmp_path / "a.safetensors")
    torch.save(trained.state_dict(), tmp_path / "a.pt")
    for name in ("a.safetensors", "a.pt"):
        assert same(load(fresh(), tmp_path / name), trained)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "module.module."])
@pytest.mark.parametrize("holder", [None, "state_dict", "model_state_dict", "model"])
def test_what_wrappers_add_to_names_is_taken_off(trained, tmp_path, prefix, holder):
    state = {prefix + name: value for name, value in trained.state_dict().items()}
    torch.save(state if holder is None else {holder: state, "epoch": 3}, tmp_path / "a.pt")
    assert same(load(fresh(), tmp_path / "a.pt"), trained)
    model = nn.DataParallel(fresh())
    assert load(model, tmp_path / "a.pt") is model
    assert same(model.module, trained)


def test_a_network_whose_own_layer_is_called_module(tmp_path):
    one, other = (nn.Sequential() for _ in range(2))
    one.add_module("module", nn.Linear(2, 1))
    other.add_module("module", nn.Linear(2, 1))
    torch.save(one.state_dict(), tmp_path / "a.pt")
    assert same(load(other, tmp_path / "a.pt"), one)


def test_tied_weights_stand_once_and_old_states_have_no_counters(trained, tmp_path):
    tied = [nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)) for _ in range(2)]
    for model in tied:
        model[1].weight = model[0].weight
    safetensors.torch.save_model(tied[0], str(tmp_path / "tied.safetensors"))
    assert same(load(tied[1], tmp_path / "tied.safetensors"), tied[0])
    state = {name: value for name, value in trained.state_dict().items() if "batches" not in name}
    torch.save(state, tmp_path / "old.pt")
    assert same(load(fresh(), tmp_path / "old.pt"), trained)


class Evil:
    def __reduce__(self):
        return (print, ("run",))


@pytest.mark.parametrize(("held", "words"), [
    (lambda state: {**state, "extra.weight": torch.ones(1)},
     "only the network has none; only the file has extra.weight"),
    (lambda state: {name: value for name, value in state.items() if name != "7.bias"},
     "does not fit the network: only the network has 7.bias; only the file has none"),
    (lambda state: {**state, "7.bias": torch.ones(4)}, r"the network's and the file's: 7.bias \(10,\) and \(4,\)"),
    (lambda state: [1, 2], "holds no state dict, a mapping from names to tensors, but a list"),
    (lambda state: {}, "holds no state dict"),
    (lambda state: {"x": Evil()}, r"holds more than tensors and plain values.*save model.state_dict\(\) alone"),
])
def test_what_does_not_fit_is_listed(trained, tmp_path, held, words, capsys):
    torch.save(held(trained.state_dict()), tmp_path / "a.pt")
    model = fresh()
    with pytest.raises(ValueError, match=words):
        load(model, tmp_path / "a.pt")
    assert same(model, fresh())
    assert capsys.readouterr().out == ""


def test_files_that_are_none(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no file .*nowhere.pt"):
        load(fresh(), tmp_path / "nowhere.pt")
    for name in ("a.pt", "a.safetensors"):
        (tmp_path / name).write_text("weights?")
        with pytest.raises(ValueError, match=f"{name} (cannot be read|holds more than tensors)"):
            load(fresh(), tmp_path / name)
