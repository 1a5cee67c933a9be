"""Several processes, each with its own data, give what one process gives over all of it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.distributed import group

from forgetting import fisher

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")

SIZES = (4, 1, 5, 3)
SHARES = {"even": ((0, 2), (1, 3)), "uneven": ((0, 1, 2), (3,)), "one rank without data": ((), (0, 1, 2, 3))}


def model() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.LayerNorm(7), nn.Linear(7, 3)).double()


def batches(chosen=(0, 1, 2, 3)) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(2)
    made = [(torch.randn(size, 5, generator=generator).double(), torch.randint(3, (size,), generator=generator))
            for size in SIZES]
    return [made[number] for number in chosen]


def share(rank: int, chosen, labels: str, wrapped: bool = False, **options) -> tuple[dict[str, Tensor], int, dict]:
    made = nn.parallel.DistributedDataParallel(model()) if wrapped else model()
    found = fisher.diagonal(made, batches(chosen[rank]), labels=labels, process_group=group.WORLD, **options)
    return dict(found), found.examples, found.routes


@pytest.mark.parametrize("labels", ["exact", "empirical", "batched"])
@pytest.mark.parametrize("chosen", SHARES.values(), ids=list(SHARES))
def test_two_processes_give_the_result_of_one(processes, chosen, labels):
    alone = fisher.diagonal(model(), batches(), labels=labels)
    for values, examples, routes in processes.same(share, chosen, labels):
        assert examples == sum(SIZES)
        assert routes == alone.routes
        assert list(values) == list(alone)
        for name, value in alone.items():
            torch.testing.assert_close(values[name], value, rtol=1e-12, atol=0)


def test_a_wrapped_model_keeps_its_names(processes):
    alone = fisher.diagonal(model(), batches())
    for values, _, _ in processes.same(share, SHARES["even"], "exact", True):
        assert list(values) == list(alone)
        for name, value in alone.items():
            torch.testing.assert_close(values[name], value, rtol=1e-12, atol=0)


def test_without_a_group_a_process_is_alone(processes):
    for rank, values in enumerate(processes.same(alone_on, SHARES["uneven"])):
        expected = fisher.diagonal(model(), batches(SHARES["uneven"][rank]))
        assert all(torch.equal(values[name], value) for name, value in expected.items())


def alone_on(rank: int, chosen) -> dict[str, Tensor]:
    return dict(fisher.diagonal(model(), batches(chosen[rank])))


def test_each_rank_draws_its_own_labels(processes):
    one, other = processes.same(draws)
    assert not torch.equal(one, other)


def draws(rank: int) -> Tensor:
    """The labels that a rank draws for one and the same batch, seen in a linear model's sampled Fisher."""
    drawn = []

    class Noting(fisher.Categorical):
        def sampled(self, outputs, targets, generator):
            score = super().sampled(outputs, targets, generator)
            drawn.append(score.argmax(-1))
            return score

    fisher.diagonal(model(), batches(), labels="sampled", likelihood=Noting(), process_group=group.WORLD)
    return torch.cat(drawn)


def test_ranks_that_disagree_about_the_parameters(processes):
    for error in processes.run(other_parameters):
        assert isinstance(error, ValueError)
        assert "the parameters of rank 1 are not those of rank 0" in str(error)
        assert "0.weight (7, 5)" in str(error)


def other_parameters(rank: int) -> None:
    fisher.diagonal(model(), batches(), parameters=(None, "3.*")[rank], process_group=group.WORLD)


def test_an_error_on_one_rank_ends_the_others(processes):
    here, there = processes.run(broken_data)
    assert "labels outside the outputs" in str(there)
    assert isinstance(here, RuntimeError)
    assert "rank 1 of the process group raised an error" in str(here)
    assert len(processes.same(share, SHARES["even"], "exact")) == 2, "the group still serves"


def broken_data(rank: int) -> None:
    data = batches()
    if rank == 1:
        data[1] = (data[1][0], data[1][1] + 7)
    fisher.diagonal(model(), data, process_group=group.WORLD)


def test_nothing_on_any_rank(processes):
    for error in processes.run(share, ((), ()), "exact"):
        assert isinstance(error, ValueError)
        assert "the data holds no examples" in str(error)


def test_precision_is_for_one_process(processes):
    for error in processes.run(precise):
        assert isinstance(error, ValueError)
        assert "with process_group=, say how many examples a rank takes" in str(error)


def precise(rank: int) -> None:
    fisher.diagonal(model(), batches(), precision=0.1, process_group=group.WORLD)


def test_a_file_over_two_processes_names_both_halves(processes):
    (mine, counts), (yours, _) = processes.same(portable, SHARES["uneven"])
    assert mine == yours
    assert len(set(mine)) == 2
    assert counts == sum(SIZES)


def portable(rank: int, chosen) -> tuple[tuple[str, ...], int | None]:
    kept = fisher.anchored(model(), batches(chosen[rank]), process_group=group.WORLD)
    return kept.fingerprints, kept.examples


@pytest.mark.parametrize("wrapper", [nn.DataParallel, torch.compile])
def test_wrappers_of_one_process(wrapper):
    plain = model()
    expected = fisher.diagonal(plain, batches())
    found = fisher.diagonal(wrapper(plain), batches())
    assert list(found) == list(expected)
    assert all(torch.equal(found[name], value) for name, value in expected.items())
