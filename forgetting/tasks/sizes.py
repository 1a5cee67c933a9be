"""How many examples are taken of each task of a sequence for a pretrained network."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Sizes:
    """How many examples are taken of each task."""

    train: int = 500
    validation: int = 150
    test: int = 200
    source_test: int = 1000

    def of_source(self) -> tuple[int, int, int]:
        """Of the source: to learn from (for methods that look at it), to choose on, to report on."""
        return self.train, 2 * self.validation, self.source_test

    def of_target(self) -> tuple[int, int, int]:
        """Of each target."""
        return self.train, self.validation, self.test
