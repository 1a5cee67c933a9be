"""A memory of examples: which are kept of those that come by, and which are drawn to be seen again."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from forgetting.fisher.batches import count, first, transform
from forgetting.rehearsal.arrivals import checked, labels_of, named_columns, pair, ranked, size_of
from forgetting.rehearsal.draws import Draws
from forgetting.rehearsal.rows import Rows

VERSION = 1


class Drawn(NamedTuple):
    """Some examples of a memory.

    Args:
        inputs: as they came, stacked again; lists have become tuples.
        targets: theirs; ``None`` where the memory has none.
        answers: the logits that were stored beside them, NaN where there were none; ``None`` where the memory has none.
        tasks: int64 [n], on the CPU: the place in :attr:`Memory.outputs` of the columns each example is scored in.

    Example:
        >>> memory = Memory(capacity=2)
        >>> memory.add(torch.zeros(3, 5), torch.tensor([0, 1, 0]))
        >>> memory.draw(1).inputs.shape
        torch.Size([1, 5])
    """

    inputs: Any
    targets: Tensor | None
    answers: Tensor | None
    tasks: Tensor

    def to(self, device: torch.device, dtype: torch.dtype) -> Drawn:
        """The same on a device, with floating inputs in a dtype."""
        def moved(tensor: Tensor) -> Tensor:
            return tensor.to(device, dtype if tensor.is_floating_point() else None)

        there = [None if one is None else one.to(device) for one in (self.targets, self.answers)]
        return Drawn(transform(self.inputs, moved), there[0], there[1], self.tasks)


class Memory:
    """Keeps a fair choice of the examples that come by, in little room.

    Every example gets a random number as it comes; those with the smallest numbers are kept. So each subset of one
    size is as likely as any other, in one pass, whatever the batches' size and however many are still to come. With
    ``policy="balanced"`` the numbers rank the examples within their class and the lowest ranks are kept: as many of
    each class, give or take one, and all of a class that has no more; within a class each is as likely as any other.

    Args:
        share: of each task's examples, in (0, 1]; at least one is kept. :meth:`absorb` counts the task first, and what
            was kept of earlier tasks stays.
        capacity: how many examples, at least 1, of all tasks together: later ones displace earlier ones.
        policy: ``"reservoir"``, or ``"balanced"`` by classes, which takes integer targets, one an example.
        seed: of what is kept and of what is drawn; each has a generator of its own.

    Raises:
        ValueError: unless one of ``share`` and ``capacity`` is given, for a number out of range or another policy.

    **Cost**: the stored examples (:attr:`bytes`), on the device on which they come, and 32 bytes each on the CPU. To
    add a batch sorts what is kept with it; to draw takes a permutation of what is kept.

    **Reference**: Vitter 1985, "Random sampling with a reservoir", ACM Transactions on Mathematical Software 11:37;
    Chrysakis and Moens 2020, "Online continual learning from imbalanced data", ICML, for the balanced policy.
    **Differs**: random numbers are compared where Vitter's algorithm R displaces a random row: the same distribution,
    but the choice does not depend on the batches' size; likewise for balance, which is exact at every moment.

    Example:
        >>> memory = Memory(capacity=4, policy="balanced")
        >>> memory.add(torch.randn(100, 3), torch.arange(100) // 90)
        >>> len(memory), memory.draw(4).targets.sort().values
        (4, tensor([0, 0, 1, 1]))
    """

    def __init__(self, share: float | None = None, *, capacity: int | None = None, policy: str = "reservoir",
                 seed: int = 0) -> None:
        checked(share, capacity, policy, seed)
        self.share, self.capacity, self.policy, self.seed = share, capacity, policy, seed
        self._inputs, self._targets = Rows(), Rows()
        self._answers: Tensor | None = None
        self._keys = torch.empty(0, dtype=torch.float64)
        self._classes, self._tasks, self._parts = (torch.empty(0, dtype=torch.int64) for _ in range(3))
        self._outputs: list[tuple[int, ...] | None] = []
        self._part, self._room = 0, capacity or 0
        self._filling, self._drawing = Draws(2 * seed), Draws(2 * seed + 1)

    def __len__(self) -> int:
        return len(self._inputs)

    def __repr__(self) -> str:
        limit = f"share={self.share}" if self.share is not None else f"capacity={self.capacity}"
        return f"Memory({limit}, policy={self.policy!r}): {len(self)} examples in {self.bytes} bytes"

    @property
    def bytes(self) -> int:
        """What it takes, room to grow included."""
        answers = self._answers.numel() * self._answers.element_size() if self._answers is not None else 0
        return self._inputs.bytes + self._targets.bytes + answers + 32 * len(self)

    @property
    def outputs(self) -> tuple[tuple[int, ...] | None, ...]:
        """The sets of columns that examples were stored with; ``None``: all columns that there are."""
        return tuple(self._outputs)

    @property
    def classes(self) -> Tensor:
        """The class of each example, int64 [n] on the CPU; −1 where its target is not one integer."""
        return self._classes.clone()

    def absorb(self, data: Iterable[Any], *, outputs: Iterable[int] | None = None, labelled: bool = True) -> Tensor:
        """Choose among a whole task's examples.

        Args:
            data: batches of (inputs, targets), or mappings with ``"labels"``; with ``share`` it is gone through
                twice, so it must not be used up by that.
            outputs: the columns of the logits in which they are scored; ``None`` for all.
            labelled: whether batches come with targets; without, a batch may also be a tensor or a mapping of inputs,
                and targets that come are not kept.

        Returns:
            The rows, int64 on the CPU, in which new examples were put.

        Raises:
            ValueError: where there are no examples, or the data are used up by the counting.
        """
        if self.share is not None:
            if isinstance(data, Iterator):
                raise ValueError("share= counts a task's examples before it chooses among them, and this data can be "
                                 "gone through only once: give a list or a DataLoader, or a memory with capacity=")
            self._part += 1
            self._room = max(1, round(self.share * sum(map(count, first(data, None)))))
        written: set[int] = set()
        came = 0
        for batch in first(data, None):
            inputs, targets = pair(batch, labelled)
            written.update(self._add(inputs, targets, None, outputs).tolist())
            came += size_of(inputs)
        if not came:
            raise ValueError("there are no examples in the data")
        return torch.tensor(sorted(written), dtype=torch.int64)

    def add(self, inputs: Any, targets: Tensor | None = None, *, answers: Tensor | None = None,
            outputs: Iterable[int] | None = None) -> None:
        """Choose among one batch more of a stream, whose end nobody needs to know.

        Args:
            inputs: [n, …] or tuples and mappings of such.
            targets: [n, …].
            answers: [n, …, classes], the logits that a model gives now; DER in its paper's form stores them so.
            outputs: the columns in which they are scored; ``None`` for all.

        Raises:
            ValueError: for a memory with ``share``, which must count a task first: :meth:`absorb`.
        """
        if self.share is not None:
            raise ValueError("a memory with share= counts a whole task first: absorb(data) it, or give capacity=")
        self._add(inputs, targets, answers, outputs)

    def answer(self, rows: Tensor, answers: Tensor) -> None:
        """Store logits beside some rows; more columns than there were make room, NaN where nothing was stored.

        Args:
            rows: int64 [n].
            answers: [n, …, classes].
        """
        answers = answers.detach().to(torch.promote_types(answers.dtype, torch.float32))
        old = self._answers if self._answers is not None else answers[:0]
        width = max(old.shape[-1], answers.shape[-1])
        whole = old.new_full((len(self), *answers.shape[1:-1], width), torch.nan)
        whole[: len(old), ..., : old.shape[-1]] = old
        whole[rows.to(whole.device), ..., : answers.shape[-1]] = answers.to(whole)
        whole[rows.to(whole.device), ..., answers.shape[-1]:] = torch.nan
        self._answers = whole

    def draw(self, size: int) -> Drawn:
        """Different examples by chance, each as likely as any other; all, in their order, where there are no more.

        Args:
            size: how many, at least 1.

        Raises:
            ValueError: where there are none.
        """
        if not len(self) or size < 1:
            raise ValueError(f"{size} examples cannot be drawn from a memory of {len(self)}")
        return self.take(self._drawing.subset(len(self), size))

    def take(self, rows: Tensor) -> Drawn:
        """The examples in these rows.

        Args:
            rows: int64 [n].
        """
        targets = self._targets.take(rows) if len(self._targets) else None
        answers = self._answers[rows.to(self._answers.device)] if self._answers is not None else None
        return Drawn(self._inputs.take(rows), targets, answers, self._tasks[rows.cpu()])

    def random_seed(self) -> int:
        """A seed for what a model does by chance with drawn examples."""
        return self._drawing.seed()

    def state_dict(self) -> dict[str, Any]:
        """Everything but the settings, in plain data: what is kept, and where both generators stand."""
        return {
            "version": VERSION, "policy": self.policy, "share": self.share, "capacity": self.capacity,
            "inputs": self._inputs.state(), "targets": self._targets.state(),
            "answers": None if self._answers is None else self._answers.clone(),
            "keys": self._keys.clone(), "classes": self._classes.clone(), "tasks": self._tasks.clone(),
            "parts": self._parts.clone(), "part": self._part, "room": self._room,
            "outputs": json.dumps(self._outputs), "filling": self._filling.state(), "drawing": self._drawing.state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what :meth:`state_dict` gave.

        Raises:
            ValueError: where it was made with another share, capacity or policy, or in another layout.
        """
        for name, own in (("version", VERSION), ("policy", self.policy), ("share", self.share),
                          ("capacity", self.capacity)):
            if state[name] != own:
                raise ValueError(f"this memory has {name}={own!r}, and the state was made with {state[name]!r}")
        self._inputs.restore(state["inputs"])
        self._targets.restore(state["targets"])
        self._answers = None if state["answers"] is None else state["answers"].clone()
        self._keys, self._classes, self._tasks, self._parts = (
            state[name].cpu().clone() for name in ("keys", "classes", "tasks", "parts"))
        self._part, self._room = state["part"], state["room"]
        self._outputs = [None if one is None else tuple(one) for one in json.loads(state["outputs"])]
        self._filling.restore(state["filling"])
        self._drawing.restore(state["drawing"])

    def _add(self, inputs: Any, targets: Tensor | None, answers: Tensor | None,
             outputs: Iterable[int] | None) -> Tensor:
        """Choose among a batch; the rows in which its examples were put."""
        size = size_of(inputs)
        columns = named_columns(outputs)
        classes = labels_of(targets, size, columns, self.policy)
        if len(self) and (targets is None) != (len(self._targets) == 0):
            raise ValueError("a memory keeps examples with targets, or examples without, and not both")
        keys = self._filling.uniforms(size)
        chosen, rows = self._placed(keys, classes)
        if not len(rows):
            return rows
        most = int((self._parts != self._part).sum()) + self._room
        self._inputs.put(rows, inputs, chosen, most)
        if targets is not None:
            self._targets.put(rows, targets, chosen, most)
        if columns not in self._outputs:
            self._outputs.append(columns)
        task = torch.full((len(rows),), self._outputs.index(columns))
        part = torch.full((len(rows),), self._part)
        for name, values in (("_keys", keys[chosen]), ("_classes", classes[chosen]), ("_tasks", task),
                             ("_parts", part)):
            setattr(self, name, _written(getattr(self, name), rows, values))
        if answers is not None:
            self.answer(rows, answers[chosen.to(answers.device)])
        elif self._answers is not None:
            self.answer(rows, self._answers.new_full((len(rows), *self._answers.shape[1:]), torch.nan))
        return rows

    def _placed(self, keys: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """Which examples of a batch are kept, and in which rows."""
        mine = (self._parts == self._part).nonzero().flatten()
        order = ranked(torch.cat([self._keys[mine], keys]), torch.cat([self._classes[mine], classes]), self.policy)
        kept = torch.zeros(len(order), dtype=torch.bool)
        kept[order[: self._room]] = True
        chosen = kept[len(mine):].nonzero().flatten()
        freed = mine[~kept[: len(mine)]]
        return chosen, torch.cat([freed, torch.arange(len(self), len(self) + len(chosen) - len(freed))])


def _written(values: Tensor, rows: Tensor, new: Tensor) -> Tensor:
    """The values with new ones in some rows, of which those at the end are added."""
    whole = torch.cat([values, values.new_empty(max(0, int(rows.max()) + 1 - len(values)))])
    whole[rows] = new
    return whole
