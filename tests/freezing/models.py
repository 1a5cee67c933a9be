"""Models with inputs for them, and how they are trained while something is frozen."""

import torch
from torch import nn

from tests import normed, pretrained


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


class Reversed(nn.Module):
    """Registered head first; one layer never runs."""

    def __init__(self):
        super().__init__()
        self.head, self.never, self.middle, self.body = (nn.Linear(3, size) for size in (2, 1, 3, 3))

    def forward(self, x):
        return self.head(self.middle(self.body(x)).relu())


class Tied(nn.Module):
    """The embedding is the output layer too, and one layer is used twice."""

    def __init__(self):
        super().__init__()
        self.embedding, self.shared, self.last = nn.Embedding(5, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.head = nn.Linear(4, 5, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens):
        return self.head(self.last(self.shared(self.shared(self.embedding(tokens)).relu())))


MODELS = {
    "norms": lambda: (normed.network(), normed.images()),
    "resnet": lambda: (pretrained.resnet(), torch.randn(4, 3, 32, 32, generator=generator())),
    "vit": lambda: (pretrained.vit(), torch.randn(2, 3, 16, 16, generator=generator())),
    "bert": lambda: (pretrained.bert(), {"input_ids": torch.randint(1, 11, (2, 5), generator=generator())}),
    "gpt": lambda: (pretrained.gpt(), {"input_ids": torch.randint(0, 6, (2, 4), generator=generator())}),
    "tied": lambda: (Tied(), torch.randint(0, 5, (2, 3), generator=generator())),
}
NEEDS = {"resnet": "torchvision", "vit": "timm", "bert": "transformers", "gpt": "transformers"}


def outputs(model, inputs):
    found = model(**inputs) if isinstance(inputs, dict) else model(inputs)
    return getattr(found, "logits", found)


def step(model, optimizer, inputs):
    """One step in train mode that leaves gradients of zero behind where there are any."""
    model.train()
    optimizer.zero_grad(set_to_none=False)
    found = outputs(model, inputs)
    (found - torch.randn(found.shape, generator=generator(1))).square().mean().backward()
    optimizer.step()


def learning(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def hooked(model):
    return [module for module in model.modules() if module._forward_hooks or module._forward_pre_hooks]
