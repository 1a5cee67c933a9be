"""Closed forms: Σ over examples of squared gradients, one rule a torch function.

A rule receives the input of one call and the gradient that came back to its output, both with the examples in
front, and returns the sum for each of its parameters. The weight gradients of a whole batch never exist at once.
"""

from collections.abc import Callable
from typing import Any

from forgetting.fisher.rules.base import Call, Rule
from forgetting.fisher.rules.conv import Conv
from forgetting.fisher.rules.embedding import Embedding
from forgetting.fisher.rules.linear import Addmm, Linear
from forgetting.fisher.rules.norm import BatchNorm, GroupNorm, LayerNorm

ALL: tuple[Rule, ...] = (Linear(), Addmm(), Conv(), Embedding(), LayerNorm(), BatchNorm(), GroupNorm())
BY_FUNCTION: dict[Callable[..., Any], Rule] = {function: rule for rule in ALL for function in rule.signatures}

__all__ = ["ALL", "BY_FUNCTION", "Call", "Rule"]
