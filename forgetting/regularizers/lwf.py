"""Learning without forgetting: what the model says about the old tasks stays, on the inputs of the new one."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn

from forgetting.regularizers.distillation import Distillation, counted, divergence
from forgetting.regularizers.teacher import Past


class LwF(Distillation):
    """Holds the softened answers for the old tasks to those of the model as it was, on the new task's inputs.

    λ·T²·Σ_tasks mean over the batch of KL(p ‖ q), with p = softmax(z*/T) of the model's logits z* at the last
    ``consolidate`` and q = softmax(z/T) of the present ones, each task's columns a softmax of their own. Call
    ``consolidate(model, outputs=columns)`` before each new task; no data are read. Then add
    ``penalty(model, inputs, outputs)`` with the batch of the new task and all of the model's logits on it.

    Without ``outputs`` the penalty runs the model itself, in eval mode. The old model always runs in eval mode and in
    the caller's autocast; logits are compared in float32 or better. Logits [examples, positions, columns] count as one
    example a position, those only that an ``attention_mask`` in the inputs counts.

    Args:
        strength: λ ≥ 0; the paper's λ_o is λ·T².
        temperature: T > 0; above 1 it brings out what the model thinks of the less likely classes.

    Raises:
        ValueError: for a temperature that is not finite and above 0; from ``penalty``, without inputs, or where the
            model no longer is one whose old answers can be computed or told apart, with the names of what changed.

    **Cost**: memory of one copy of parameters and buffers. A step: one forward pass without gradients (two more
    passes where ``outputs`` are not given). A model that ``torch.compile`` made runs as uncompiled code for it.

    **Reference**: Li and Hoiem 2016 (arXiv 1606.09282), section 3; Hinton, Vinyals and Dean 2015 (arXiv
    1503.02531), section 2, for T².
    **Differs**: the Kullback-Leibler divergence in place of the cross entropy, which is larger by the entropy of p, a
    number that no weight changes: the gradient is the same, and at the old model the penalty is 0. The factor T² keeps
    the gradient's size when T changes. The old answers are computed for each batch in place of once for each example,
    so they fit augmented inputs. The paper's warm-up of the new head is not part of it.

    Example:
        >>> import torch
        >>> model = nn.Linear(2, 4)
        >>> lwf = LwF(strength=1.0)
        >>> lwf.consolidate(model, outputs=[0, 1])
        >>> inputs = torch.ones(3, 2)
        >>> lwf.penalty(model, inputs, model(inputs)).item()
        0.0
        >>> model.bias.data += torch.tensor([1.0, 0.0, 5.0, 5.0])
        >>> lwf.penalty(model, inputs, model(inputs)).item() > 0
        True
    """

    def __init__(self, strength: float, *, temperature: float = 2.0) -> None:
        super().__init__(strength)
        if not 0 < temperature < math.inf:
            raise ValueError(f"temperature is {temperature}; it is finite and above 0")
        self.temperature = float(temperature)

    def penalty(self, model: nn.Module, inputs: Any = None, outputs: Any = None) -> Tensor:
        """λ·T²·Σ_tasks mean KL(p ‖ q); a 0 without a graph before consolidation and at strength 0.

        Args:
            model: on any device, in any dtype.
            inputs: the batch's inputs: a tensor, a tuple of positional or a mapping of keyword arguments.
            outputs: all of the model's logits on them, or what holds them as ``.logits``.
        """
        return self._weighed(self._divergence, model, inputs, outputs)

    def _divergence(self, past: Past, inputs: Any, outputs: Any) -> Tensor:
        whole = self._answers(past, inputs, outputs)
        answers = whole.cut(counted(inputs, whole.old))
        total = answers.new.new_zeros(())
        for columns in answers.tasks:
            old, new = answers.pair(columns)
            total = total + divergence(old / self.temperature, new / self.temperature)
        return total * self.temperature**2 / max(len(answers.new), 1)
