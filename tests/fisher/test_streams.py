"""Data larger than memory: what an estimate holds does not grow with the number of examples."""

import gc

import pytest
import torch
from torch import nn

from forgetting import fisher


def live_bytes() -> int:
    """Of all tensors that Python can reach; storages count once."""
    gc.collect()
    storages = {}
    for thing in gc.get_objects():
        if type(thing) in (torch.Tensor, nn.Parameter):
            storage = thing.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


@pytest.mark.filterwarnings("ignore:the data ended")
@pytest.mark.parametrize("options", [
    {"labels": "empirical"}, {"labels": "exact"}, {"labels": "sampled"}, {"labels": "empirical", "precision": 1e-9},
], ids=["empirical", "exact", "sampled", "precision"])
def test_live_tensors_do_not_grow_with_the_examples(options):
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    levels = []

    def stream():
        for number in range(60):
            if number in (5, 55):
                levels.append(live_bytes())
            yield torch.randn(16, 6), torch.randint(3, (16,))

    found = fisher.diagonal(model, stream(), **options)
    assert found.examples == 960
    assert levels[1] <= levels[0]


def test_an_anchored_estimate_streams_too():
    levels = []

    def stream():
        for number in range(40):
            if number in (5, 35):
                levels.append(live_bytes())
            yield torch.randn(16, 6), torch.randint(3, (16,))

    fisher.anchored(nn.Linear(6, 3), stream(), labels="empirical")
    assert levels[1] <= levels[0]


def test_what_a_batch_leaves_behind_would_be_seen():
    kept, levels = [], []

    def stream():
        for number in range(8):
            if number in (2, 7):
                levels.append(live_bytes())
            kept.append(torch.randn(16, 6))
            yield kept[-1], torch.randint(3, (16,))

    fisher.diagonal(nn.Linear(6, 3), stream(), labels="empirical")
    assert levels[1] > levels[0]
