"""A bar for terminals: examples a second, how far; nothing where nobody looks, and the estimate is the same."""

import io
import re

import pytest
import rich.console
import torch
from torch import nn

from forgetting import fisher


def data(count=6, size=4):
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(size, 5, generator=generator), torch.randint(3, (size,), generator=generator))
            for _ in range(count)]


@pytest.fixture
def screen(monkeypatch):
    """What a terminal would have received."""
    written = io.StringIO()
    plain = rich.console.Console

    def console(*, stderr):
        assert stderr, "a program's output is not mixed with a bar"
        return plain(file=written, force_terminal=True, width=150)

    monkeypatch.setattr(rich.console, "Console", console)
    return written


def shown(screen):
    """Without colours and in one line."""
    return " ".join(re.sub(r"\x1b\[[\d;?]*\w", "", screen.getvalue()).split())


def test_a_terminal_sees_batches_and_speed(screen):
    model = nn.Linear(5, 3)
    found = fisher.diagonal(model, data(), progress=True)
    assert torch.equal(found["weight"], fisher.diagonal(model, data())["weight"])
    assert "6/6 batches" in shown(screen)
    assert "examples/s" in screen.getvalue()


def test_with_a_number_of_examples_these_are_counted(screen):
    fisher.diagonal(nn.Linear(5, 3), iter(data()), examples=10, progress=True)
    assert "10/10 examples" in shown(screen)


class Unsized(torch.utils.data.IterableDataset):
    def __iter__(self):
        return iter(data())


@pytest.mark.parametrize("batches", [iter(data()), torch.utils.data.DataLoader(Unsized(), batch_size=None)],
                         ids=["iterator", "loader without a length"])
def test_the_end_may_be_unknown(screen, batches):
    assert fisher.diagonal(nn.Linear(5, 3), batches, progress=True).examples == 24
    assert "6/? batches" in shown(screen)


def test_an_error_takes_the_bar_away(screen):
    with pytest.raises(ValueError, match="labels outside"):
        fisher.diagonal(nn.Linear(5, 3), [(torch.randn(2, 5), torch.tensor([0, 9]))], progress=True)
    assert "\x1b[?25h" in screen.getvalue(), "the cursor is back"


def test_nothing_is_written_elsewhere(capfd):
    fisher.diagonal(nn.Linear(5, 3), data(), progress=True)
    fisher.diagonal(nn.Linear(5, 3), data())
    assert capfd.readouterr() == ("", "")
