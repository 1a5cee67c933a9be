"""One forward pass that was watched, and where its gradients arrive."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from forgetting.fisher.capture import Use
from forgetting.fisher.ledger import Ledger


class Inbox:
    """Where gradients arrive. It knows nothing of the graph, which knows it: the garbage collector sees no circle that
    runs through a graph."""

    def __init__(self) -> None:
        self.ledger: Ledger | None = None
        self.early = False

    def receive(self, use: Use, gradient: Tensor) -> None:
        """A use's gradient; one that comes before the forward pass has ended is a derivative inside the model."""
        if self.ledger is None:
            self.early = True
        else:
            self.ledger.receive(use, gradient)


@dataclass
class Pass:
    """One forward pass: ``uses`` is None where no rule may look at it."""

    outputs: Tensor
    targets: Tensor
    uses: list[Use] | None
    root: Tensor
    inbox: Inbox

    def outer(self) -> bool:
        """Whether every use's gradient of an example is an outer product of its input and its gradient."""
        return self.uses is not None and all(
            not use.sources or use.outer(use.split(len(self.outputs))) for use in self.uses)


def leaves(output: Tensor) -> Iterator[Tensor]:
    """The leaf tensors that an output depends on."""
    if output.grad_fn is None:
        if output.requires_grad:
            yield output
        return
    waiting = [output.grad_fn]
    seen = set(waiting)
    while waiting:
        node = waiting.pop()
        leaf = getattr(node, "variable", None)
        if leaf is not None:
            yield leaf
        for parent, _ in node.next_functions:
            if parent is not None and parent not in seen:
                seen.add(parent)
                waiting.append(parent)
