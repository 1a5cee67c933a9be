"""What looks at a model's weights after every step that an optimizer takes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from torch import nn
from torch.optim import Optimizer

from forgetting.parameters import Handle, unwrapped


class Follower(ABC):
    """Counts an optimizer's steps and does something after each; a step that a ``GradScaler`` skips is none.

    Args:
        model: whose weights the optimizer moves.

    Attributes:
        taken: how many there were.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.taken = 0
        self._optimizer: Optimizer | None = None

    @abstractmethod
    def update(self) -> None:
        """Count one step, and do what there is to do after it."""

    def follow(self, optimizer: Optimizer) -> Handle:
        """Call :meth:`update` after each of an optimizer's steps, until the handle is removed.

        Hooks run in the order in which they were registered: follow after proximal penalties were attached, whose
        move belongs to the step.

        Args:
            optimizer: of the model's parameters.

        Returns:
            A handle, which is a context manager with ``remove()``; what was counted stays.

        Raises:
            TypeError: for what is no torch optimizer.
            ValueError: for one that holds none of the model's parameters, or where a follower follows already: its
                steps would count twice.

        **Cost**: with a fused optimizer under a ``GradScaler``, the host waits for the device once a step, to know
        whether it was skipped.
        """
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"follow takes a torch.optim.Optimizer, not a {type(optimizer).__name__}")
        if self._optimizer is not None:
            raise ValueError(f"this {type(self).__name__} follows an optimizer already, and steps would count twice; "
                             "remove the first handle before")
        held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        if not any(id(parameter) in held for parameter in self.model.parameters()):
            raise ValueError("the optimizer holds none of this model's parameters; follow the one that trains it")
        hook = optimizer.register_step_post_hook(self._after)
        self._optimizer = optimizer

        def leave() -> None:
            hook.remove()
            self._optimizer = None

        return Handle(leave)

    @property
    def plain(self) -> nn.Module:
        """The model without ``torch.compile`` and ``DistributedDataParallel`` around it."""
        return unwrapped(self.model)

    def _after(self, optimizer: Optimizer, args: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        skipped = getattr(optimizer, "found_inf", None)  # set by a GradScaler whose optimizer skips inside its own step
        if skipped is None or not bool(skipped > 0):
            self.update()
