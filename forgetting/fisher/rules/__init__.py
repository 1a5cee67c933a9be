"""Closed forms: Σ over examples of |gradient|^power, one rule a torch function.

A rule receives what one call was given and the gradient that came back to its output, both with the examples in
front, and adds to the sum of each of its parameters. The weight gradients of a whole batch never exist at once.
"""

from collections.abc import Callable
from typing import Any

from forgetting.fisher.rules.base import Call, Rule, Separable, add_powers, powered, tile, widened
from forgetting.fisher.rules.broadcast import Add, Expand, Multiply, Repeat, Subtract
from forgetting.fisher.rules.conv import Conv
from forgetting.fisher.rules.embedding import Embedding
from forgetting.fisher.rules.linear import Addmm, Linear, Matmul
from forgetting.fisher.rules.local import Local
from forgetting.fisher.rules.norm import BatchNorm, GroupNorm, LayerNorm, RMSNorm

ALL: tuple[Rule, ...] = (
    Linear(), Addmm(), Matmul(), Conv(), Embedding(), LayerNorm(), RMSNorm(), BatchNorm(), GroupNorm(), Add(),
    Subtract(), Multiply(), Expand(), Repeat(),
)
BY_FUNCTION: dict[Callable[..., Any], Rule] = {function: rule for rule in ALL for function in rule.signatures}
LOCAL = Local()

__all__ = ["ALL", "BY_FUNCTION", "LOCAL", "Call", "Local", "Rule", "Separable", "add_powers", "powered", "tile",
           "widened"]
