"""Results made by hand, so that their rows can be worked out by hand."""

from __future__ import annotations

import numpy as np

from forgetting.protocol import Method, Recipe, Result

TASKS = ("digits", "rotated")


def flags(accuracy: float, examples: int = 20) -> np.ndarray:
    """A test split's correctness with that accuracy."""
    return np.arange(examples) < round(accuracy * examples)


def made(method: str, seed: int, accuracy, *, settings=None, joint=False, tasks=TASKS, sequence="digits-transfer",
         pretrained=True, seconds=2.0, every=10, **fields) -> Result:
    """A result with that accuracy matrix; recipe fields and result fields as given."""
    recipe_fields = {name: fields.pop(name) for name in list(fields) if name in ("rate", "norm_statistics", "network")}
    recipe = Recipe(sequence, Method("method", settings=settings or {}, joint=joint), every=every, scenario="domain",
                    **recipe_fields).as_data()
    recipe["method"]["name"] = method
    accuracy = np.asarray(accuracy, dtype=np.float64)
    plain = {"seconds_training": seconds, "peak_bytes": 2**20, "provenance": {"torch": "2.6"}}
    correct = tuple(tuple(flags(value) for value in row) for row in accuracy)
    return Result(recipe=recipe, seed=seed, key=f"{method}-{seed}", tasks=tasks, pretrained=pretrained,
                  accuracy=accuracy, correct=correct, **{**plain, **fields})


def transfer(before: float, after: float, target: float) -> list[list[float]]:
    """The matrix of a two-task transfer: source before and after, target when learned."""
    return [[before, 0.1], [before, 0.1], [after, target]]
