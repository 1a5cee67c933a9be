"""A-GEM: a step never raises the loss on old examples, to first order."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from forgetting.parameters import unwrapped
from forgetting.regularizers.steps import Action, Step, optimized
from forgetting.rehearsal.base import Rehearsal
from forgetting.rehearsal.memory import Memory


class AGEM(Rehearsal):
    """Takes out of the gradient what would raise the loss on stored examples.

    Before each step of the optimizer that it is attached to: g ← g − λ·(gᵀr/‖r‖²)·r where gᵀr < 0, with r the gradient
    of the mean loss of a drawn batch, over all parameters that the optimizer moves; else g is left as it is, bit by
    bit. There is no loss term: ``penalty`` is 0. A parameter without a gradient counts as one with 0, and gets its
    share of r where there is a conflict.

    **What g is.** The gradient as it stands at the step: after accumulation, unscaling and clipping, of the loss with
    all its penalties. A scale that a fused optimizer under a ``GradScaler`` takes out later changes nothing.
    Pulls of regularizers in gradient mode are part of it where those were attached before this.

    **The reference pass** runs outside autocast, in the modes in which the model is; buffers (running statistics) are
    put back after it.

    Args:
        strength: λ ≥ 0, how much of the conflicting part is taken out; 1 is the paper's, 0 is none, and 2 reflects it.
        memory: where examples are kept; default: 5 % of each task's, by chance.
        batch: how many are drawn a step.
        columns: among which every stored example is scored; ``None``: each among its own task's.
        loss: ``(logits, targets) -> scalar``; ``None``: cross entropy.

    Raises:
        ValueError: see :class:`Rehearsal`; at a step, for sparse gradients.
        RuntimeError: at a step with a closure, which computes its gradients inside.

    **Cost**: the stored examples; a step has one forward and backward pass more over ``batch`` examples, one copy of
    the gradients while it runs, and waits once for the device.

    **Reference**: Chaudhry et al. 2019, "Efficient lifelong learning with A-GEM" (arXiv 1812.00420), equation 11.
    **Differs**: tasks are stored once they are learned, not while they are; λ.

    Example:
        >>> model = nn.Linear(3, 2)
        >>> agem = AGEM(batch=8)
        >>> agem.consolidate(model, [(torch.randn(40, 3), torch.arange(40) % 2)])
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> with agem.attach(model, optimizer):
        ...     nn.functional.cross_entropy(model(torch.randn(8, 3)), torch.arange(8) % 2).backward()
        ...     _ = optimizer.step()
    """

    modes: ClassVar[tuple[str, ...]] = ("loss", "gradient")

    def __init__(self, strength: float = 1.0, *, memory: Memory | None = None, batch: int = 64,
                 columns: Iterable[int] | None = None,
                 loss: Callable[[Tensor, Tensor], Tensor] | None = None) -> None:
        super().__init__(strength, memory=memory, batch=batch, columns=columns, loss=loss)

    def penalty(self, model: nn.Module, inputs: Any = None, outputs: Any = None) -> Tensor:
        """A 0 without a graph: what is done is done by :meth:`attach`."""
        return self.zero(model)

    def _term(self, model: nn.Module, size: int) -> Tensor:
        return self._scored(model, size)

    def _actions(self, model: nn.Module, mode: str) -> dict[str, Action]:
        return {"pull": partial(self._project, model)}

    def _project(self, model: nn.Module, step: Step) -> None:
        """Stage "pull" of an optimizer's step."""
        if self.strength == 0 or not len(self.memory):
            return
        inner, moved = unwrapped(model), optimized(step.optimizer)
        live = [parameter for parameter in inner.parameters() if id(parameter) in moved and parameter.requires_grad]
        if not live:
            raise ValueError("the optimizer holds none of this model's parameters that learn, so there is no gradient "
                             "to project: attach the optimizer that trains this model")
        reference = self._reference(inner, live)
        if any(parameter.grad is not None and parameter.grad.layout != torch.strided for parameter in live):
            raise ValueError("AGEM projects dense gradients, and one is sparse: make the embedding with sparse=False")
        conflict, square = _dots([parameter.grad for parameter in live], reference)
        if not conflict < 0:
            return
        share = self.strength * conflict / square
        for parameter, towards in zip(live, reference, strict=True):
            if towards is None:
                continue
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            parameter.grad.sub_(towards, alpha=share)

    def _reference(self, model: nn.Module, live: list[nn.Parameter]) -> list[Tensor | None]:
        """r: the gradient of the mean loss of a drawn batch, ``None`` for parameters that it does not reach."""
        buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
        try:
            with torch.enable_grad():
                loss = self._term(model, self._size(None))
                return list(torch.autograd.grad(loss, live, allow_unused=True))
        finally:
            for buffer, value in buffers:
                buffer.copy_(value)


def _dots(gradients: list[Tensor | None], reference: list[Tensor | None]) -> tuple[float, float]:
    """gᵀr and ‖r‖² over all parameters, in float32 or better within one and in float64 over them; ``None`` is 0."""
    parts = []
    for gradient, towards in zip(gradients, reference, strict=True):
        if towards is None:
            continue
        towards = towards.to(torch.promote_types(towards.dtype, torch.float32))
        product = torch.zeros_like(towards) if gradient is None else gradient * towards
        parts.append(torch.stack([product.sum(), towards.square().sum()]).double())
    if not parts:
        return 0.0, 0.0
    conflict, square = torch.stack([part.to(parts[0].device) for part in parts]).sum(0).tolist()
    return conflict, square
