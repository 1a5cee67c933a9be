"""A run with rehearsal goes on in another process as if nothing had been."""

import io
import subprocess
import sys

import pytest
import torch

from forgetting.rehearsal import Memory, Replay
from tests.house.sources import ROOT
from tests.rehearsal.small import batches, drawing, go_on, network, parts

CONTINUE = """
import sys, torch
from tests.rehearsal.small import go_on, parts, resumed
for name in sys.argv[2:]:
    run = resumed(name, f"{sys.argv[1]}/{name}.half")
    go_on(*run, range(4, 6))
    run[2].consolidate(run[0], torch.load(f"{sys.argv[1]}/data", weights_only=True))
    go_on(*run, range(6, 9))
    torch.save(parts(*run), f"{sys.argv[1]}/{name}.whole")
"""
NAMES = ("Replay", "DER++", "AGEM", "ProxyReplay")


def same(left, right):
    """Bit for bit, at every depth."""
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(same, left, right))
    return torch.equal(left, right) if isinstance(left, torch.Tensor) else left == right


@pytest.mark.slow  # another process imports torch
def test_a_run_goes_on_bit_by_bit_in_a_new_process(tmp_path):
    torch.save(batches(30, seed=9), tmp_path / "data")
    whole = {}
    with torch.random.fork_rng():
        for name in NAMES:
            torch.manual_seed(1)
            model, rehearsal = network(), drawing(name)
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
            rehearsal.consolidate(model, batches())
            go_on(model, optimizer, rehearsal, range(4))
            torch.save(parts(model, optimizer, rehearsal), tmp_path / f"{name}.half")
            go_on(model, optimizer, rehearsal, range(4, 6))
            rehearsal.consolidate(model, batches(30, seed=9))
            go_on(model, optimizer, rehearsal, range(6, 9))
            whole[name] = parts(model, optimizer, rehearsal)
    subprocess.run([sys.executable, "-c", CONTINUE, str(tmp_path), *NAMES], cwd=ROOT, check=True, timeout=120)
    for name in NAMES:
        found = torch.load(tmp_path / f"{name}.whole", weights_only=True)
        assert same(found, whole[name]), name
        assert not same(found["model"], torch.load(tmp_path / f"{name}.half", weights_only=True)["model"])


@pytest.mark.parametrize("name", NAMES)
def test_a_state_shares_no_memory_with_what_it_was_read_from(name):
    model, rehearsal = network(), drawing(name)
    rehearsal.consolidate(model, batches())
    file = io.BytesIO()
    state = rehearsal.state_dict()
    torch.save(state, file)
    again = drawing(name)
    again.load_state_dict(state)
    for either in (rehearsal, again):
        either.consolidate(model, batches(200, seed=4))
    file.seek(0)
    assert same(state, torch.load(file, weights_only=True))
    assert same(rehearsal.state_dict(), again.state_dict())


def test_a_state_of_a_memory_with_other_settings_is_refused():
    replay = Replay(memory=Memory(capacity=3))
    replay.consolidate(network(), batches())
    for memory, words in ((Memory(capacity=4), "capacity=4.*made with 3"), (Memory(share=0.1), "share=0.1"),
                          (Memory(capacity=3, policy="balanced"), "policy='balanced'")):
        other = Replay(memory=memory)
        with pytest.raises(ValueError, match=words):
            other.load_state_dict(replay.state_dict())
        assert len(other.memory) == 0
