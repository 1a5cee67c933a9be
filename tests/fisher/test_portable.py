"""An estimate with all that a penalty needs in place of the data; and which data it was."""

import numpy as np
import pytest
import torch
from torch import nn

from forgetting import EWC, L2SP, fisher
from forgetting.curvature import Anchored
from forgetting.fisher.fingerprint import Fingerprint
from tests.curvature.test_anchored import data, model


def cut(batches, size):
    inputs, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    return list(zip(inputs.split(size), labels.split(size), strict=True))


def test_it_holds_the_estimate_and_the_weights_as_they_were():
    made = model()
    kept = fisher.anchored(made, data(), labels="empirical", outputs=[0, 1, 2], parameters="2.*")
    found = fisher.diagonal(made, data(), labels="empirical", parameters="2.*")
    assert {name: value.tolist() for name, value in kept.curvature.items()} == {n: v.tolist() for n, v in found.items()}
    assert (kept.examples, kept.labels, kept.outputs) == (9, "empirical", (0, 1, 2))
    assert kept.likelihood == {"name": "Categorical", "ignore_index": -100}
    before = made[2].weight.detach().clone()
    made[2].weight.data += 1
    assert torch.equal(kept.anchor["2.weight"], before)


def test_a_likelihood_is_named_with_its_settings():
    kept = fisher.anchored(nn.Linear(4, 2), [(torch.randn(5, 4), torch.randn(5, 2))],
                           likelihood=fisher.Gaussian(variance=0.25))
    assert kept.likelihood == {"name": "Gaussian", "variance": 0.25}


def test_a_likelihood_that_no_file_can_hold_is_refused_before_the_work():
    class Weighted(fisher.Categorical):
        def __init__(self):
            super().__init__()
            self.weights = torch.ones(3)

    with pytest.raises(TypeError, match=r"a file cannot say what Weighted\.weights is, a Tensor"):
        fisher.anchored(model(), iter(()), likelihood=Weighted())


def test_an_unknown_matrix():
    with pytest.raises(ValueError, match="curvature='full' is not one of diagonal"):
        fisher.anchored(model(), data(), curvature="full")


@pytest.mark.parametrize("size", [1, 4, 9])
def test_the_fingerprint_does_not_depend_on_the_batch_size(size):
    assert fingerprint(cut(data(), size)) == fingerprint(data())


def test_the_fingerprint_is_of_the_examples_that_were_used():
    assert fingerprint(data(), examples=7) == fingerprint(cut(data(), 7)[:1])
    assert fingerprint(data(), examples=7) != fingerprint(data(), examples=8)
    assert fisher.anchored(model(), data(), examples=7).fingerprints == (fingerprint(data(), examples=7),)


def fingerprint(batches, **options):
    stream = Fingerprint(batches, **options)
    for _ in range(2):  # an estimate may pass over its data twice
        for _ in stream:
            pass
    return stream.hexdigest()


def changed(change):
    batches = data()
    batches[1] = change(*batches[1])
    return batches


@pytest.mark.parametrize("change", [
    lambda x, y: (x.clone().index_fill_(0, torch.tensor([2]), 0.5), y),
    lambda x, y: (x, y.flip(0) if not torch.equal(y, y.flip(0)) else (y + 1) % 3),
    lambda x, y: (x.flip(0), y),
    lambda x, y: (x.double(), y),
    lambda x, y: (x.reshape(3, 2, 2), y),
    lambda x, y: (-0.0 * x, y),
], ids=["value", "labels", "order", "dtype", "shape", "zeros"])
def test_the_fingerprint_sees_any_change(change):
    assert fingerprint(changed(change)) != fingerprint(data())
    assert len(fingerprint(data())) == 64


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.int64, torch.bool, torch.complex64])
def test_every_dtype_has_bytes(dtype):
    inputs = torch.arange(6).to(dtype).reshape(2, 3)
    assert fingerprint([{"inputs": inputs.T.contiguous().T, "scale": torch.tensor(1.0), "labels": torch.ones(2)}]) == (
        fingerprint([{"inputs": inputs, "scale": torch.tensor(1.0), "labels": torch.ones(2)}]))


def test_structures_and_plain_values_count():
    batch = {"inputs": (torch.ones(2), [np.float64(1.5)]), "name": "a", "labels": torch.zeros(2)}
    assert fingerprint([batch]) != fingerprint([{**batch, "name": "b"}])
    assert fingerprint([batch]) != fingerprint([{**batch, "inputs": (torch.ones(2), [np.float64(2.5)])}])
    assert fingerprint([]) == ""


@pytest.mark.parametrize("anchors", ["latest", "separate"])
def test_a_file_serves_without_the_data_and_pulls_back_to_its_own_anchor(anchors, tmp_path):
    made = model()
    fisher.anchored(made, data(), labels="empirical").save(tmp_path / "m")
    here, there = EWC(3.0, labels="empirical", anchors=anchors), EWC(3.0, anchors=anchors)
    here.consolidate(made, data())
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    there.consolidate(made, curvature=Anchored.load(tmp_path / "m"))
    assert here.penalty(made).item() > 0
    assert torch.equal(there.penalty(made), here.penalty(made))
    for name, pull in here.pull(made).items():
        assert torch.equal(there.pull(made)[name], pull)


def test_a_file_is_cut_to_what_the_penalty_covers():
    made = model()
    kept = fisher.anchored(made, data())
    made[2] = nn.Linear(5, 7)
    with pytest.raises(ValueError, match=r"the matrix covers the parameter '2.weight' with the shape \(3, 5\)"):
        EWC(1.0).consolidate(made, curvature=kept)
    ewc = EWC(1.0, parameters=["0.*", "1.*"])
    ewc.consolidate(made, curvature=kept)
    assert set(ewc.consolidated.anchor) == {"0.weight", "0.bias", "1.weight", "1.bias"}
    assert ewc.penalty(made).item() == 0


def test_the_anchor_takes_the_precision_of_the_penalty():
    kept = fisher.anchored(model().double(), [(x.double(), y) for x, y in data()])
    ewc = EWC(1.0)
    ewc.consolidate(model(), curvature=kept)
    assert {value.dtype for value in ewc.consolidated.anchor.values()} == {torch.float32}
    assert ewc.penalty(model()).item() == 0


def test_the_tasks_before_keep_their_share():
    made = model()
    ewc = EWC(1.0)
    ewc.consolidate(made, data())
    kept = fisher.anchored(made, data((4,), 5), parameters="2.*")
    made[0].weight.data += 1
    made[2].weight.data += 1
    ewc.consolidate(made, curvature=kept)
    assert torch.equal(ewc.consolidated.anchor["2.weight"], kept.anchor["2.weight"])
    assert torch.equal(ewc.consolidated.anchor["0.weight"], made[0].weight), "anchors='latest': the present ones"
    assert ewc.consolidated.tasks == 2


def test_l2sp_still_takes_none():
    with pytest.raises(ValueError, match="takes no curvature="):
        L2SP(1.0).consolidate(model(), curvature=fisher.anchored(model(), data()))
