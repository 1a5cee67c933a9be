"""A source without labels: what the model as given answers is what it has to keep answering."""

from __future__ import annotations

import torch
from torch import nn

from forgetting.tasks.examples import Examples

_BATCH = 1000  # the protocol's, so that the same model gives the same answers to the last bit


def agreement(model: nn.Module, examples: Examples) -> Examples:
    r"""The same examples with the model's own answers as targets: :math:`y_n = \arg\max_c f_c(x_n)`.

    Accuracy on them is top-1 agreement with the model as it is now, 1 before anything is learned.

    Args:
        model: gives logits [n, columns]; it answers in eval mode and is left as found.
        examples: whatever their targets are.

    Raises:
        ValueError: where the outputs are no [n, columns].

    **Cost**: one forward pass over the examples.

    **Reference**: none known: agreement with the unchanged model as what is retained. **Differs**: nothing.

    Example:
        >>> examples = Examples(torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([0, 0]))
        >>> agreement(nn.Identity(), examples).targets
        tensor([0, 1])
    """
    modes = {module: module.training for module in model.modules()}
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    answers = []
    try:
        model.eval()
        with torch.no_grad():
            for inputs, _ in examples.batches(_BATCH):
                logits = model(inputs.to(device))
                if logits.ndim != 2:
                    raise ValueError(f"the model gives outputs of shape {tuple(logits.shape)}; an answer is the "
                                     "greatest of [examples, columns]")
                answers.append(logits.argmax(dim=1).to(examples.device))
    finally:
        for module, training in modes.items():
            module.training = training
    return Examples._made(examples._blocks, examples._rows, torch.cat(answers))
