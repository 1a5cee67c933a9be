"""DistributedDataParallel under torchrun: two processes end with the weights of a plain loop in one."""

import pytest
import torch

from forgetting.regularizers import EWC
from tests.integrations import distributed_worker as worker

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")


def same(found, expected, **tolerance):
    """Names in order, and values."""
    assert list(found) == list(expected)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, **(tolerance or {"rtol": 0, "atol": 1e-5}))


@pytest.mark.parametrize("loop", worker.LOOPS, ids=str)
def test_the_weights_are_those_of_a_plain_loop_with_the_pull_outside_the_clip(loop):
    for found in worker.launched("ddp"):
        same(found[loop], worker.whole(worker.plain(*loop)))


def test_f20_a_penalty_in_the_loss_makes_an_unused_head_ready_twice_and_a_pull_at_the_step_does_not():
    free = worker.whole(worker.plain(strength=0.0))
    for found in worker.launched("ddp"):
        assert "marked as ready twice" in found["naive"] or "ready only once" in found["naive"], found["naive"]
        assert (found["SGD", 1, None]["old.weight"] - free["old.weight"]).abs().max() > 0.1  # the unused head is held


def test_a_path_hears_the_gradient_that_the_processes_agreed_on():
    weights, importances = worker.listened(None, lambda model: model)
    for found in worker.launched("ddp"):
        same(found["SI"][0], weights)
        same(found["SI"][1], importances, rtol=1e-3, atol=1e-5)


def test_what_is_consolidated_is_the_mean_over_the_data_that_a_process_was_given():
    ewc = EWC(1.0)
    ewc.consolidate(worker.source(), list(worker.batches(1)))
    first, second = worker.launched("ddp")
    for found in (first, second):
        same(found["all of it"], ewc.consolidated.curvature, rtol=1e-5, atol=1e-8)
        same(found["shares"], ewc.consolidated.curvature, rtol=1e-5, atol=1e-8)
    assert not torch.allclose(first["its share"]["new.weight"], second["its share"]["new.weight"])
