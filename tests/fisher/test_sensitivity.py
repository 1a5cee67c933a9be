"""How far the outputs move: finite differences of ‖f‖², an example at a time, in eval mode, without labels."""

import pytest
import torch
from torch import nn

from forgetting import fisher
from tests.cases import CASES, cut
from tests.fisher.estimates import FLOAT64, assert_close, require
from tests.oracles import call, prepared

# Classifiers, positions, shared and tied weights, norms, dropout, look-ups: whatever a rule or the fallback serves.
ROWS = [name for name, case in CASES.items() if case.needs is None]


def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 5)).double()


def examples(count=6):
    return torch.randn(count, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def by_differences(model, inputs, columns=slice(None), step=1e-6):
    """Mean over examples of |Δ‖f‖² / Δθ|, one weight and one example at a time."""
    found = {}
    with torch.no_grad():
        for name, weight in model.named_parameters():
            found[name] = torch.zeros_like(weight)
            flat, total = weight.view(-1), found[name].view(-1)
            for place in range(len(flat)):
                kept = flat[place].item()
                norms = []
                for sign in (1, -1):
                    flat[place] = kept + sign * step
                    norms.append(model(inputs)[:, columns].square().sum(1))
                flat[place] = kept
                total[place] = ((norms[0] - norms[1]) / (2 * step)).abs().mean()
    return found


def by_loop(case, model, batches):
    """The same by autograd, one backward an example, in float64."""
    model, parameters = prepared(model)
    total = {name: torch.zeros(weight.shape, dtype=torch.float64) for name, weight in parameters.items()}
    for example in batches:
        outputs, _ = call(model, example, case.forward)
        if case.meaning.outputs is not None:
            outputs = outputs[..., list(case.meaning.outputs)]
        gradients = torch.autograd.grad(outputs.square().sum(), list(parameters.values()), allow_unused=True)
        for name, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:
                total[name] += gradient.abs().double() / len(batches)
    return total


@pytest.mark.parametrize("columns", [None, [3], [0, 4]])
def test_it_is_what_finite_differences_say(columns):
    model = network()
    expected = by_differences(model, examples(), slice(None) if columns is None else columns)
    found = fisher.sensitivity(model, [examples()], outputs=columns)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-7, atol=1e-9)
    assert found.examples == 6
    assert found.labels is None
    assert found.routes["0.weight"] == "linear"


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("size", [1, 7])
def test_every_row_of_models(name, size):
    case = CASES[name]
    require(case)
    model, batch = case.build(torch.float64)
    expected = by_loop(case, model, cut(batch, 1))
    found = fisher.sensitivity(model, cut(batch, size), forward=case.forward, outputs=case.meaning.outputs,
                               parameters=case.parameters)
    assert_close(found, {key: expected[key] for key in found}, FLOAT64)


def test_examples_do_not_cancel_as_in_a_batch():
    model, inputs = network(), examples()
    alone = torch.autograd.grad(model(inputs).square().sum(1).mean(), model[0].weight)[0].abs()
    found = fisher.sensitivity(model, [inputs])["0.weight"]
    assert (found >= alone - 1e-12).all()
    assert found.sum() > 1.1 * alone.sum()


@pytest.mark.parametrize("wrap", [
    lambda inputs: inputs, lambda inputs: (inputs,), lambda inputs: [inputs],
    lambda inputs: (inputs, torch.full((len(inputs),), 99)), lambda inputs: (inputs, torch.ones(len(inputs), 2)),
    lambda inputs: {"input": inputs}, lambda inputs: {"input": inputs, "labels": torch.zeros(len(inputs))},
    lambda inputs: ({"input": inputs}, None) and ({"input": inputs}, torch.zeros(len(inputs))),
], ids=["tensor", "tuple", "list", "labels", "vectors", "mapping", "mapping with labels", "pair of a mapping"])
def test_labels_are_not_read(wrap):
    model = network()
    expected = fisher.sensitivity(model, [examples()])
    found = fisher.sensitivity(model, [wrap(part) for part in examples().split(4)])
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-12, atol=0)


def test_f6_train_mode_changes_nothing_and_is_left_as_it_was():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2)).double()
    model[1].running_var.fill_(2.0)
    model.eval()
    expected = by_differences(model, examples())
    model.train()
    model[1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.random.get_rng_state()
    found = fisher.sensitivity(model, [examples()])
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-7, atol=1e-9)
    assert [module.training for module in model] == [True, False, True, True]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), random)


def test_what_cannot_be_estimated():
    model = network()
    with pytest.raises(ValueError, match="no examples"):
        fisher.sensitivity(model, [])
    with pytest.raises(ValueError, match="not finite"):
        fisher.sensitivity(model, [examples() * float("nan")])
    with pytest.raises(ValueError, match="at least 1"):
        fisher.sensitivity(model, [examples()], examples=0)
    with pytest.raises(RuntimeError, match="inference_mode"), torch.inference_mode():
        fisher.sensitivity(model, [examples()])
    with pytest.raises(TypeError, match="a single batch goes in a list"):
        fisher.sensitivity(model, {"input": examples()})


def test_the_first_examples_only():
    model = network()
    few, all_of_them = (fisher.sensitivity(model, data, examples=count)["0.bias"]
                        for data, count in (([examples()], 4), ([examples()[:4]], None)))
    torch.testing.assert_close(few, all_of_them, rtol=1e-12, atol=0)


def test_padding_is_no_part_of_a_sequence():
    """Two sequences, one by one or padded to one length, have the same importance."""
    torch.manual_seed(0)
    table, head = nn.Embedding(7, 4, dtype=torch.float64), nn.Linear(4, 3, dtype=torch.float64)

    class Reader(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.head = table, head

        def forward(self, input_ids, attention_mask):
            return self.head(self.table(input_ids))

    short, long = torch.tensor([[1, 2]]), torch.tensor([[3, 4, 5]])
    alone = [{"input_ids": ids, "attention_mask": torch.ones_like(ids)} for ids in (short, long)]
    both, mask = torch.tensor([[1, 2, 0], [3, 4, 5]]), torch.tensor([[1, 1, 0], [1, 1, 1]])
    padded = [{"input_ids": both, "attention_mask": mask}]
    model = Reader()
    one, two = (fisher.sensitivity(model, data) for data in (alone, padded))
    for name in one:
        torch.testing.assert_close(two[name], one[name])
    assert not two["table.weight"][0].any()
