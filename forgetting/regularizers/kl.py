"""The divergence from the model as it was, in either direction, with or without what the target says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from forgetting.regularizers.distillation import Distillation, counted, divergence
from forgetting.regularizers.teacher import Past

DIRECTIONS = ("forward", "reverse")
MASKED = (None, "target", "next token")
_IGNORED = -100


class KL(Distillation):
    """Holds the model's predictions to those of the model as it was, on the new task's inputs.

    λ·mean of KL(p ‖ q), or with ``direction="reverse"`` of KL(q ‖ p), with p = softmax of the logits of the model at
    the last ``consolidate`` and q = softmax of the present ones. The mean is over examples; over all positions that
    the inputs' ``attention_mask`` counts where logits are [examples, positions, columns], as a language model's are.
    Several tasks' columns (``consolidate(model, outputs=columns)``) are each a softmax of their own, and summed.

    With ``masked`` the class that the target names is taken out of p and q, which are normalised anew, so that the
    penalty does not oppose what the loss asks for:

    * ``"target"``: the classes are given to ``penalty(model, inputs, outputs, targets)``, as column numbers in the
      outputs' leading shape. A target of a column that the old model did not have takes nothing out.
    * ``"next token"``: causal language models; position t is compared without the token at t+1, read from ``labels``
      in the mapping of inputs, else from ``input_ids``.

    What has no target (−100, a last position, padding) is not compared then.

    Args:
        strength: λ ≥ 0.
        direction: ``"forward"``, KL(old ‖ new): whatever the old model held possible stays possible; or ``"reverse"``,
            KL(new ‖ old): the new model does not say what the old one held impossible.
        masked: ``None``, ``"target"`` or ``"next token"``.

    Raises:
        ValueError: for a direction or a mask of another name; from ``penalty``, without inputs or the targets that
            the mask needs; see also :class:`LwF`.

    **Cost**: memory of one copy of parameters and buffers. A step: one forward pass without gradients (two more
    passes where ``outputs`` are not given).

    **Reference**: Xu et al. 2026 (arXiv 2605.29498) for the masked target; Li and Hoiem 2016 (arXiv 1606.09282) for
    the forward direction on new inputs; Shenfeld, Pari and Agrawal 2025 (arXiv 2509.04259) for why this quantity.
    **Differs**: the old model is that of the last ``consolidate``; to stay with the first, consolidate once. Xu et al.
    train adapters; here any parameters learn.

    Example:
        >>> model = nn.Linear(2, 3)
        >>> kl = KL(strength=1.0, direction="reverse")
        >>> kl.consolidate(model)
        >>> inputs = torch.ones(4, 2)
        >>> kl.penalty(model, inputs, model(inputs)).item()
        0.0
        >>> model.bias.data[0] += 1
        >>> kl.penalty(model, inputs, model(inputs)).item() > 0
        True
        >>> kl = KL(strength=1.0, masked="target")
        >>> kl.consolidate(model)
        >>> model.bias.data[2] += 1
        >>> abs(kl.penalty(model, inputs, model(inputs), torch.full((4,), 2)).item()) < 1e-6
        True
    """

    def __init__(self, strength: float, *, direction: str = "forward", masked: str | None = None) -> None:
        super().__init__(strength)
        for name, value, known in (("direction", direction, DIRECTIONS), ("masked", masked, MASKED)):
            if value not in known:
                raise ValueError(f"{name}={value!r} does not exist: choose one of {', '.join(map(str, known))}")
        self.direction = direction
        self.masked = masked

    @property
    def needs_targets(self) -> bool:
        """Whether ``penalty`` has to be given targets."""
        return self.masked == "target"

    def penalty(self, model: nn.Module, inputs: Any = None, outputs: Any = None,
                targets: Tensor | None = None) -> Tensor:
        """λ·mean KL; a 0 without a graph before consolidation and at strength 0.

        Args:
            model: on any device, in any dtype.
            inputs: the batch's inputs: a tensor, a tuple of positional or a mapping of keyword arguments.
            outputs: all of the model's logits on them, or what holds them as ``.logits``.
            targets: int64, column numbers in the outputs' leading shape; only for ``masked="target"``.
        """
        if targets is not None and not self.needs_targets:
            raise ValueError(f"targets= are read with masked='target' only, and this KL has masked={self.masked!r}")
        return self._weighed(self._divergence, model, inputs, outputs, targets)

    def _divergence(self, past: Past, inputs: Any, outputs: Any, targets: Tensor | None) -> Tensor:
        whole = self._answers(past, inputs, outputs)
        which = counted(inputs, whole.old)
        if self.masked is not None:
            targets = self._targets(inputs, targets, which, whole.new)
            told = targets != _IGNORED
            which = told if which is None else told & which
            targets = targets[which].unsqueeze(-1)
        answers = whole.cut(which)
        total = answers.new.new_zeros(())
        for columns in answers.tasks:
            old, new = answers.pair(columns)
            if targets is not None:
                numbers = torch.arange(old.shape[-1], device=old.device) if columns is None else columns
                # finite, and still e^x = 0: infinities would meet as ∞ − ∞
                hidden, least = numbers == targets, torch.finfo(new.dtype).min
                old, new = old.masked_fill(hidden, least), new.masked_fill(hidden, least)
            total = total + divergence(old, new, direction=self.direction)
        return total / max(len(answers.new), 1)

    def _targets(self, inputs: Any, targets: Tensor | None, which: Tensor | None, logits: Tensor) -> Tensor:
        """The target at each place of the outputs, −100 where there is none."""
        shape = logits.shape[:-1]
        if self.masked == "target":
            if targets is None:
                raise ValueError("KL with masked='target' leaves out what the targets name: give them, "
                                 "penalty(model, inputs, outputs, targets)")
            if targets.shape != shape or targets.is_floating_point():
                raise ValueError(f"the targets have the shape {tuple(targets.shape)} and the dtype {targets.dtype}; "
                                 f"the outputs need a column number at each of {tuple(shape)}")
            return targets.to(logits.device)
        tokens = inputs.get("labels", inputs.get("input_ids")) if isinstance(inputs, Mapping) else None
        if tokens is None or len(shape) != 2 or tokens.shape != shape:
            raise ValueError("masked='next token' reads labels or input_ids in a mapping of inputs, one for each "
                             f"position of the outputs {tuple(shape)}; for other inputs use masked='target'")
        tokens = tokens.to(logits.device)
        if which is not None:
            tokens = tokens.masked_fill(~which, _IGNORED)
        following = torch.full_like(tokens, _IGNORED)
        following[:, :-1] = tokens[:, 1:]
        return following
