"""An estimate over several processes: each sees its own data, all get the same sums."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.distributed
from torch import Tensor


class Ranks:
    """The processes that estimate one matrix together; without a group, this process alone, and nothing is sent.

    A group is always named by the caller: a collective that a library starts by itself, because
    ``torch.distributed`` happens to be initialised, hangs as soon as one process estimates without the others.
    """

    def __init__(self, group: torch.distributed.ProcessGroup | None) -> None:
        self.group = group
        self.rank = torch.distributed.get_rank(group) if group is not None else 0

    def gather(self, value: Any) -> list[Any]:
        """What each rank has, in the order of ranks; plain values."""
        if self.group is None:
            return [value]
        found: list[Any] = [None] * torch.distributed.get_world_size(self.group)
        torch.distributed.all_gather_object(found, value, group=self.group)
        return found

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """A block that every rank must leave well: where one raises, the others raise too, and none waits for ever."""
        try:
            yield
        except Exception:
            self.gather(False)
            raise
        failed = [rank for rank, well in enumerate(self.gather(True)) if not well]
        if failed:
            raise RuntimeError(f"rank {failed[0]} of the process group raised an error during the estimate, which its "
                               "own output shows; no rank has a result")

    def add_up(self, sums: Mapping[str, Tensor], *counts: int) -> tuple[int, ...]:
        """Each tensor becomes, in place, its sum over the ranks; the counts' sums are returned.

        Raises:
            ValueError: on every rank, where their names or shapes differ.
        """
        if self.group is None:
            return counts
        self._agree([f"{name} {tuple(value.shape)}" for name, value in sums.items()])
        for tensor in sums.values():
            dense = tensor.contiguous()  # ranks may hold other memory formats
            torch.distributed.all_reduce(dense, group=self.group)
            if dense is not tensor:
                tensor.copy_(dense)
        return tuple(sum(column) for column in zip(*self.gather(counts), strict=True))

    def known(self, routes: Mapping[str, str], unknown: str) -> dict[str, str]:
        """Each name's route on the first rank that has one; a rank without data has none."""
        everybody = self.gather(dict(routes))
        return {name: next((each[name] for each in everybody if each[name] != unknown), unknown) for name in routes}

    def _agree(self, mine: list[str]) -> None:
        """Raise, on every rank alike, where a rank has other parameters than the first."""
        everybody = self.gather(mine)
        for rank, theirs in enumerate(everybody):
            if theirs != everybody[0]:
                apart = [entry for entry in (*everybody[0], *theirs) if (entry in everybody[0]) != (entry in theirs)]
                raise ValueError(f"the ranks of process_group= must estimate one matrix, but the parameters of rank "
                                 f"{rank} are not those of rank 0: {apart[:4] or 'their order differs'}")
