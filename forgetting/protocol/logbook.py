"""What is written down while one task is learned."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from forgetting.protocol.measure import clock

if TYPE_CHECKING:
    from forgetting.protocol.monitor import Monitor
    from forgetting.regularizers import Regularizer


class Diverged(ValueError):
    """A loss or a weight is not finite: this recipe cannot be learned as it is, others can.

    Example:
        >>> from forgetting.protocol import Recipe, run
        >>> run(Recipe("digits-transfer", rate=1e6, pretraining_epochs=1))
        Traceback (most recent call last):
        forgetting.protocol.logbook.Diverged: the loss is ... of task 2 (...), method 'finetune', rate 1000000.0: ...
    """


class Logbook:
    """Losses, norms and accuracies of one task, measured every ``monitor.every`` steps.

    Args:
        monitor: tests on the tasks so far.
        where: what every record and event says: ``task`` (its number) and what else identifies it.
        by_hooks: regularizers whose pull is no term of the loss; their penalties are measured together with the terms.
        advice: the end of the error about a loss that is not finite.
        observe: receives a dict at every measurement.
    """

    def __init__(self, monitor: Monitor, where: dict[str, Any], by_hooks: Sequence[Regularizer], advice: str,
                 observe: Callable[[dict[str, Any]], None]) -> None:
        self.monitor, self.where, self.by_hooks = monitor, where, by_hooks
        self.advice, self.observe = advice, observe
        self.steps: list[dict[str, Any]] = []
        self.penalties: list[dict[str, Any]] = []
        self.seconds = 0.0
        self._step = 0
        self._losses: list[Tensor] = []
        self._task_losses: list[Tensor] = []

    def _clock(self) -> float:
        """Seconds, once a GPU has done what the training gave it: its time is not that of measuring."""
        return clock(next(self.monitor.model.parameters()).device)

    @property
    def due(self) -> bool:
        """Whether the present step is measured."""
        return self._step % self.monitor.every == 0

    def before(self, task_loss: Tensor, loss: Tensor, inputs: Tensor, logits: Tensor, terms: Sequence[Tensor]) -> None:
        """Called once a step, before the backward pass; ``terms``: the penalties in the loss, each computed once."""
        self._step += 1
        self._losses.append(loss.detach())
        self._task_losses.append(task_loss.detach())
        if self.due and (terms or self.by_hooks):
            started = self._clock()
            others = [regularizer.penalty(self.monitor.model, inputs, logits) for regularizer in self.by_hooks]
            penalty = torch.stack([*terms, *others]).sum()
            pull = gradient_norm(penalty, self.monitor.model)
            gradient = gradient_norm(task_loss, self.monitor.model)
            self.penalties.append({"task": self.where["task"], "step": self._step, "penalty": float(penalty.detach()),
                                   "pull": pull, "gradient": gradient,
                                   "ratio": pull / gradient if gradient else None})
            self.seconds += self._clock() - started

    def after(self) -> None:
        """Called once a step, after the optimizer's."""
        started = self._clock()
        if self.due:
            loss = self.check()
        accuracy = self.monitor.step()
        if accuracy is not None:
            self.steps.append({"task": self.where["task"], "step": self._step, "loss": loss, "accuracy": accuracy})
            penalty = {name: value for name, value in (self.penalties or [{}])[-1].items()
                       if name not in ("task", "step")}
            self.observe({"event": "step", **self.where, **self.steps[-1], **penalty})
            self.seconds += self._clock() - started

    def check(self) -> float:
        """The mean task loss since the last call; every loss since then must be finite.

        Looking at a loss makes a GPU wait, so the losses are looked at together, a measurement at a time.

        Raises:
            Diverged: naming the first step whose loss is not finite.
        """
        losses = torch.stack(self._losses)
        wrong = (~torch.isfinite(losses)).nonzero()
        if len(wrong):
            step = self._step - len(losses) + 1 + int(wrong[0])
            raise Diverged(f"the loss is {float(losses[wrong[0, 0]])} at step {step} {self.advice}")
        mean = float(torch.stack(self._task_losses).double().mean())
        self._losses, self._task_losses = [], []
        return mean

    def close(self) -> None:
        """Called once, after the last step.

        Raises:
            Diverged: where the last losses or the weights are not finite.
        """
        if self._losses:
            self.check()
        for name, parameter in self.monitor.model.named_parameters():
            if not torch.isfinite(parameter).all():
                raise Diverged(f"the weights {name!r} are not finite after step {self._step} {self.advice}")


def gradient_norm(loss: Tensor, model: nn.Module) -> float:
    """‖∂loss/∂θ‖ over the parameters that learn; what the model stores in ``.grad`` is left alone."""
    if not loss.requires_grad:
        return 0.0
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    return float(torch.stack([gradient.double().norm() for gradient in gradients if gradient is not None]).norm())
