"""Two processes of one ``torch.distributed`` group, which run what a test sends them."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing

RANKS = 2
SECONDS = 120  # for one call; a hang is a failure


class Processes:
    """Started once; every call runs a function of a test module on both ranks at the same time."""

    def __init__(self, folder: Path) -> None:
        context = torch.multiprocessing.get_context("spawn")
        self._running, self._ends = [], []
        for rank in range(RANKS):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(rank, folder / "meeting", theirs), daemon=True)
            process.start()
            self._running.append(process)
            self._ends.append(ours)

    def run(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """``function(rank, *arguments)`` on each rank: what each returned, or the exception that it raised."""
        for end in self._ends:
            end.send((function, arguments))
        results = []
        for end in self._ends:
            assert end.poll(SECONDS), f"{function.__name__} has not ended after {SECONDS} s: a collective hangs"
            results.append(end.recv())
        return results

    def same(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """The results of :meth:`run`, none of which may be an exception."""
        results = self.run(function, *arguments)
        for result in results:
            assert not isinstance(result, Exception), result
        return results

    def stop(self) -> None:
        """End the processes."""
        for process in self._running:
            process.terminate()
            process.join()


def _serve(rank: int, meeting: Path, end: Connection) -> None:
    """What a process does: run what comes until it is ended."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=meeting.as_uri(), rank=rank, world_size=RANKS)
    while True:
        function, arguments = end.recv()
        try:
            end.send(function(rank, *arguments))
        except Exception as error:  # noqa: BLE001 - it is the test's to judge
            traceback.print_exc()
            end.send(error)
