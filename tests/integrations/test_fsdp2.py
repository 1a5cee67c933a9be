"""FSDP2 (fully_shard) under torchrun: shards in two processes are held as a plain loop in one holds the weights."""

import pytest

from forgetting.regularizers import EWC
from tests.integrations import distributed_worker as worker
from tests.integrations.test_ddp import same

pytest.importorskip("torch.distributed.fsdp", reason="this torch has no torch.distributed")


@pytest.mark.parametrize("loop", worker.LOOPS, ids=str)
def test_the_weights_are_those_of_a_plain_loop_with_the_pull_outside_the_clip(loop):
    for found in worker.launched("fsdp2"):
        same(found[loop], worker.whole(worker.plain(*loop)))


def test_anchor_and_importance_lie_in_the_shards_of_the_weights():
    ewc = EWC(1.0)
    ewc.consolidate(worker.started(), list(worker.batches(1)))
    for found in worker.launched("fsdp2"):
        assert found["alike"]
        same(found["kept"], ewc.consolidated.curvature, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("mode", ["gradient", "proximal"])
def test_l2sp_consolidated_on_shards(mode):
    expected = worker.moved_back(None, lambda model: model, mode)
    for found in worker.launched("fsdp2"):
        same(found[mode], expected)


@pytest.mark.parametrize("case", ["state", "partly"])
def test_a_gathered_state_is_cut_again_and_a_model_may_be_sharded_in_parts(case):
    expected = worker.consolidated().pull(worker.started())
    for found in worker.launched("fsdp2"):
        same(found[case], expected)


def test_what_shards_cannot_do_says_so():
    for found in worker.launched("fsdp2"):
        assert "attach it with mode='gradient', which pulls at the step" in found["in the loss"]
        assert "SI listens to the steps, and the weights lie in shards" in found["SI"]
        assert "use a diagonal method (EWC, MAS, L2SP) with storage='float32'" in found["int8"]
