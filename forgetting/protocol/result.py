"""What one run measured."""

from __future__ import annotations

import base64
import dataclasses
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Array = np.ndarray
_VARYING = ("seconds_training", "seconds_consolidation", "peak_bytes", "provenance")
_OPTIONAL = ("diagnosis",)


@dataclass(frozen=True, eq=False)
class Result:
    """One run: one recipe, one seed. Tasks are numbered 1…N; accuracies are on the test splits, in [0, 1].

    Args:
        recipe: ``Recipe.as_data()``.
        seed: of the run.
        key: the run's name in a store.
        tasks: the N tasks' names, in order.
        pretrained: whether task 1 was learned in a phase before, which all methods share.
        accuracy: float64, [N + 1, N], the matrix R: row 0 is the model as given, row j the model once task j was
            learned, column i the accuracy on task i + 1. In a pretrained sequence rows 0 and 1 are equal.
        validation: the same matrix on the validation splits; None where a task holds no examples out.
        correct: ``correct[row][column]``, one bool an example of that task's test split.
        steps: one dict a measurement inside a task: ``task`` (its number), ``step`` (in the task), ``loss`` (the
            task's own, a mean over the steps since the measurement before), ``accuracy`` (name -> test accuracy,
            of the tasks so far). For display; nothing is chosen by it.
        penalties: one dict a measurement of a method with a regularizer: ``task``, ``step``, ``penalty`` (its value),
            ``pull`` and ``gradient`` (Euclidean norms of the penalty's and of the task loss's gradient), ``ratio``.
        curve: one dict an interpolation amount: ``task``, ``amount``, ``accuracy`` (of all N tasks).
        drift: parameter name -> ‖θ − θ₀‖ / ‖θ₀‖ at the end, θ₀ the model as given (‖θ − θ₀‖ where θ₀ = 0).
        restored: source accuracy at the end with the running statistics of its norm layers put back to what they
            were when the source had been learned; None for a model without such statistics.
        seconds_training, seconds_consolidation: wall clock, of the finished tasks, summed over the parts of a
            resumed run; the shared pretraining and all testing are left out.
        peak_bytes: on a GPU the peak of allocated memory; on a CPU the growth of the process's largest resident
            set during the run, 0 where the process had been larger before.
        provenance: versions, platform, threads, device, data hash, when.
        diagnosis: what was lost of the source and where, as :func:`forgetting.diagnosis.of_run` says it; None where
            nobody asked for it. Stored only where it is there: a file without it is one of the same format.

    Example:
        >>> right, wrong = np.array([True]), np.array([False])
        >>> result = Result({"method": {"name": "plain"}}, seed=0, key="", tasks=("source",), pretrained=False,
        ...                 accuracy=np.array([[0.0], [1.0]]), correct=((wrong,), (right,)))
        >>> Result.from_data(result.as_data()).figures() == result.figures()
        True
    """

    recipe: dict[str, Any]
    seed: int
    key: str
    tasks: tuple[str, ...]
    pretrained: bool
    accuracy: Array
    correct: tuple[tuple[Array, ...], ...]
    validation: Array | None = None
    steps: list[dict[str, Any]] = field(default_factory=list)
    penalties: list[dict[str, Any]] = field(default_factory=list)
    curve: list[dict[str, Any]] = field(default_factory=list)
    drift: dict[str, float] = field(default_factory=dict)
    restored: float | None = None
    seconds_training: float = 0.0
    seconds_consolidation: float = 0.0
    peak_bytes: int = 0
    provenance: dict[str, Any] = field(default_factory=dict)
    diagnosis: dict[str, Any] | None = None

    @property
    def method(self) -> str:
        """The method's name."""
        return self.recipe["method"]["name"]

    @property
    def seconds(self) -> float:
        """Training and consolidation together."""
        return self.seconds_training + self.seconds_consolidation

    def as_data(self) -> dict[str, Any]:
        """Everything in plain data, ready for JSON; :meth:`from_data` gives the result back."""
        data = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        data["tasks"] = list(self.tasks)
        data["accuracy"] = self.accuracy.tolist()
        data["validation"] = [] if self.validation is None else self.validation.tolist()
        data["correct"] = [[packed(cell) for cell in row] for row in self.correct]
        if self.diagnosis is None:
            del data["diagnosis"]
        return data

    @classmethod
    def from_data(cls, data: dict[str, Any]) -> Result:
        """The result that :meth:`as_data` described.

        Raises:
            KeyError: for a field that does not exist, or one that is missing.
        """
        known = {item.name for item in dataclasses.fields(cls)}
        if {*data, *_OPTIONAL} != known:
            wrong = sorted(known ^ {*data, *_OPTIONAL})
            raise KeyError(f"not a result: {', '.join(wrong)} should (not) be there")
        data = dict(data)
        data["tasks"] = tuple(data["tasks"])
        for name in ("accuracy", "validation"):
            data[name] = np.asarray(data[name], dtype=np.float64).reshape(-1, len(data["tasks"]))
        if not len(data["validation"]):
            data["validation"] = None
        data["correct"] = tuple(tuple(unpacked(cell) for cell in row) for row in data["correct"])
        return cls(**data)

    def figures(self) -> dict[str, Any]:
        """Everything that repeats exactly on the same machine: all but seconds, bytes and provenance."""
        return {name: value for name, value in self.as_data().items() if name not in _VARYING}


def packed(flags: Array) -> dict[str, Any]:
    """A bool vector as its length and its bits in base 64."""
    bits = np.packbits(np.asarray(flags, dtype=bool))
    return {"length": len(flags), "bits": base64.b64encode(bits.tobytes()).decode()}


def unpacked(data: dict[str, Any]) -> Array:
    """What :func:`packed` packed."""
    bits = np.frombuffer(base64.b64decode(data["bits"]), dtype=np.uint8)
    return np.unpackbits(bits, count=data["length"]).astype(bool)
