"""Shares of the labels are nested and stratified."""

import itertools

import pytest
import torch

from forgetting.tasks import Examples
from forgetting.transfer import nested

COUNTS = (7, 50, 200)  # examples a class


def numbered():
    """Examples whose input is their number."""
    targets = torch.cat([torch.full((count,), label) for label, count in enumerate(COUNTS)])
    targets = targets[torch.randperm(len(targets), generator=torch.Generator().manual_seed(0))]
    return Examples(torch.arange(len(targets)).view(-1, 1), targets)


def members(examples):
    return set(examples.inputs.flatten().tolist())


@pytest.mark.parametrize("seed", [0, 7])
def test_each_share_holds_all_smaller_ones(seed):
    kept = list(nested(numbered(), [1.0, 0.01, 0.3, 0.05], seed=seed).values())
    sets = [members(some) for some in kept]
    assert [len(some) for some in kept] == sorted(map(len, sets)) == [len(found) for found in sets]
    assert all(small < large for small, large in itertools.pairwise(sets))
    assert sets[-1] == members(numbered())


def test_each_share_is_stratified_and_leaves_no_class_out():
    for share, some in nested(numbered(), [0.01, 0.05, 0.3, 1.0]).items():
        assert torch.bincount(some.targets).tolist() == [max(1, round(share * count)) for count in COUNTS]


def test_labels_stay_with_their_inputs():
    whole = numbered()
    some = nested(whole, [0.3])[0.3]
    assert torch.equal(whole.targets[some.inputs.flatten()], some.targets)


def test_a_share_does_not_depend_on_the_others_and_the_seed_draws_it():
    alone = members(nested(numbered(), [0.05])[0.05])
    assert alone == members(nested(numbered(), [0.01, 0.05, 0.5])[0.05])
    assert alone != members(nested(numbered(), [0.05], seed=1)[0.05])


@pytest.mark.parametrize("shares", [[], [0.0, 0.5], [1.5], [0.5, 0.5]])
def test_wrong_shares_are_refused(shares):
    with pytest.raises(ValueError, match="lie above 0 and up to 1, each once"):
        nested(numbered(), shares)


def test_shares_that_keep_the_same_are_refused():
    with pytest.raises(ValueError, match=r"0\.0001 and of 0\.001 keep the same 3 of 257"):
        nested(numbered(), [0.0001, 0.001])
