"""Several processes, each with its own data, give the Kronecker factors that one process gives over all of it."""

import pytest
import torch
from torch.distributed import group

from forgetting import fisher
from tests.fisher.test_distributed import SHARES, SIZES, batches, model

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")


def share(rank, chosen, once=False, **options):
    data = batches(chosen[rank])
    found = fisher.kronecker(model(), iter(data) if once and rank else data, process_group=group.WORLD, **options)
    return found.state_dict()


@pytest.mark.parametrize("approximation", fisher.APPROXIMATIONS)
@pytest.mark.parametrize("chosen", SHARES.values(), ids=list(SHARES))
def test_two_processes_give_the_result_of_one(processes, chosen, approximation):
    alone = fisher.kronecker(model(), batches(), approximation=approximation)
    delta = {name: torch.ones_like(value) for name, value in alone.diagonal().items()}
    for state in processes.same(share, chosen, False):
        assert state["examples"] == sum(SIZES)
    for state in processes.run(approximated, chosen, approximation):
        found = type(alone).from_state_dict(state)
        assert (found.names(), found.examples, found.routes) == (alone.names(), sum(SIZES), alone.routes)
        for name, value in alone.product(delta).items():
            torch.testing.assert_close(found.product(delta)[name], value, rtol=1e-9, atol=1e-12)


def approximated(rank, chosen, approximation):
    return share(rank, chosen, approximation=approximation)


def test_an_error_on_one_of_them_is_an_error_on_both(processes):
    first, second = processes.run(refused, SHARES["even"])
    assert isinstance(second, ValueError)
    assert "the data is an iterator" in str(second)
    assert isinstance(first, RuntimeError)
    assert "rank 1 of the process group raised" in str(first)


def refused(rank, chosen):
    return share(rank, chosen, True, approximation="ekfac")
