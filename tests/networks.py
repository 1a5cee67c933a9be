"""Small hand-written networks, one a way in which a parameter can be used."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint


class Applied(nn.Module):
    """Named parts and the function that puts them together: ``function(self, *inputs)``."""

    def __init__(self, function: Callable[..., Any], **parts: nn.Module | nn.Parameter) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, *inputs: Any, **named: Any) -> Any:
        return self.function(self, *inputs, **named)


def raw(*shape: int) -> nn.Parameter:
    """A random raw parameter."""
    return nn.Parameter(torch.randn(shape) * 0.5)


class Mean(nn.Module):
    """The mean over given dimensions."""

    def __init__(self, *dims: int) -> None:
        super().__init__()
        self.dims = dims

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(self.dims)


def convolutional(*layers: nn.Module, channels: int, dims: int = 2, classes: int = 3) -> nn.Module:
    """Convolutions, the mean over space, and a linear head."""
    return nn.Sequential(*layers, Mean(*range(2, 2 + dims)), nn.Linear(channels, classes))


class InPlaceResidual(nn.Module):
    """`+=` onto the stream, in-place ReLU after it: the norm's and the convolution's inputs are overwritten."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, padding=1)
        self.first, self.second = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.norm, self.other = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.norm(self.stem(x)))
        y = self.second(self.relu(self.other(self.first(x))))
        y += x
        y *= 1.5
        return self.head(self.relu(y).mean((2, 3)))


class Attention(nn.Module):
    """nn.MultiheadAttention over x [example, token, width], in either layout, with a head on the mean token."""

    def __init__(self, batch_first: bool, **options: Any) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=batch_first, dropout=0.1, **options)
        self.head = nn.Linear(4, 3)
        self.batch_first = batch_first
        self.widths = options.get("kdim", 4), options.get("vdim", 4)

    def forward(self, x: Tensor) -> Tensor:
        y = x if self.batch_first else x.transpose(0, 1)
        key, value = y[..., : self.widths[0]], y[..., : self.widths[1]]
        y, _ = self.attention(y, key, value, need_weights=False)
        return self.head((y if self.batch_first else y.transpose(0, 1)).mean(1))


class RawAttention(nn.Module):
    """Scaled dot product attention by hand: one raw fused weight, cut by slices, used by `@`."""

    def __init__(self) -> None:
        super().__init__()
        self.fused, self.bias, self.out = raw(4, 12), raw(12), raw(4, 4)
        self.scale = nn.Parameter(torch.tensor(0.7))
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        query = x @ self.fused[:, :4] + self.bias[:4]
        key, value = (x @ self.fused[:, 4:] + self.bias[4:]).chunk(2, dim=-1)
        y = functional.scaled_dot_product_attention(query * self.scale, key, value)
        return self.head((x + y @ self.out).mean(1))


class Recurrent(nn.Module):
    """An LSTM, GRU or RNN over x [example, token, width]; the head reads the last token."""

    def __init__(self, kind: type[nn.Module], **options: Any) -> None:
        super().__init__()
        self.cell = kind(3, 4, **options)
        self.head = nn.Linear(4 * (1 + options.get("bidirectional", False)), 3)
        self.batch_first = options.get("batch_first", False)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.cell(x if self.batch_first else x.transpose(0, 1))
        return self.head((y if self.batch_first else y.transpose(0, 1))[:, -1])


class Unrolled(nn.Module):
    """An LSTM cell unrolled by hand: every weight is used once a token."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.LSTMCell(3, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        state = None
        for token in x.unbind(1):
            state = self.cell(token, state)
        return self.head(state[0])


class ClassToken(nn.Module):
    """A class token by expand and cat, position embeddings of batch size one, layer scale: a ViT by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.token, self.position, self.scale = raw(1, 1, 4), raw(1, 5, 4), raw(4)
        self.mix, self.head = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.token.expand(len(x), -1, -1), x], dim=1) + self.position
        x = x + self.scale * torch.tanh(self.mix(x - x.mean(1, keepdim=True)))
        return self.head(torch.tanh(x[:, 0] * x.mean(1)))


class MaskToken(nn.Module):
    """A mask token put in place by assignment (as masked autoencoders do) and by where."""

    def __init__(self) -> None:
        super().__init__()
        self.token, self.other = raw(4), raw(4)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = x[..., 0] > 0.5
        x = torch.where((x[..., 1] > 0)[..., None], self.other, x)
        x[hidden] = self.token
        x[:, -1] = self.token
        return self.head(torch.tanh(x).mean(1))


class Tied(nn.Module):
    """Input embedding = output head, with a bias of its own; one token's logits a position."""

    def __init__(self, vocabulary: int = 5, width: int = 4) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.mix = nn.Linear(width, width)
        self.head = nn.Linear(width, vocabulary)
        self.head.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.mix(self.embedding(x)).cumsum(1)))


class Symmetric(nn.Module):
    """A parametrization: the upper triangle makes the whole matrix."""

    def forward(self, x: Tensor) -> Tensor:
        return x.triu() + x.triu(1).transpose(-1, -2)


class Scaled(torch.autograd.Function):
    """A custom function that receives a parameter."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return x * weight.square()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        return gradient * weight.square(), (gradient * x * 2 * weight).sum(tuple(range(gradient.dim() - weight.dim())))


class Merged(nn.Module):
    """A Linear on merged tokens [examples · tokens, width], example-major or position-major."""

    def __init__(self, position_major: bool) -> None:
        super().__init__()
        self.inner, self.norm, self.head = nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 3)
        self.position_major = position_major

    def forward(self, x: Tensor) -> Tensor:
        shape = (x.shape[1], x.shape[0], 4) if self.position_major else (x.shape[0], x.shape[1], 4)
        x = x.transpose(0, 1) if self.position_major else x
        y = torch.tanh(self.norm(self.inner(x.reshape(-1, 4)))).view(shape)
        return self.head(y.mean(0 if self.position_major else 1))


class SequenceFirst(nn.Module):
    """Linear, norm and raw parameters on x [token, example, width]: the first dimension is not the examples."""

    def __init__(self, tokens: int) -> None:
        super().__init__()
        self.inner, self.norm, self.head = nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 3)
        self.position = raw(tokens, 1, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.inner(x.transpose(0, 1) + self.position))
        return self.head(torch.tanh(y).mean(0))


class Windows(nn.Module):
    """Windowed tokens [examples · windows, token, width], as in Swin, with a bias a position."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.bias, self.head = nn.Linear(4, 4), raw(2, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(self.inner(x.reshape(-1, 2, 4)) + self.bias)
        return self.head(y.reshape(x.shape).mean(1))


class Branches(nn.Module):
    """Dict or tuple inputs; the mask chooses tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, values: Tensor, mask: Tensor) -> Tensor:
        y = torch.tanh(self.inner(values)) * mask[..., None]
        return self.head(y.sum(1) / mask.sum(1, keepdim=True))


class Unpadded(nn.Module):
    """Tokens under the mask packed into one dimension, so that examples own unequal numbers of rows."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        packed = torch.tanh(self.inner(x[mask]))
        return self.head(torch.zeros_like(x).index_put((*mask.nonzero(as_tuple=True),), packed).sum(1))


class Experts(nn.Module):
    """A mixture of experts: each sees only the examples that are routed to it."""

    def __init__(self) -> None:
        super().__init__()
        self.experts, self.router = nn.ModuleList([nn.Linear(4, 3), nn.Linear(4, 3)]), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        shares = self.router(x).softmax(-1)
        out = x.new_zeros(len(x), 3)
        for number, expert in enumerate(self.experts):
            (rows,) = (shares.argmax(-1) == number).nonzero(as_tuple=True)
            out = out.index_add(0, rows, expert(x[rows]) * shares[rows, number, None])
        return out


def overwriting(model: Applied, x: Tensor) -> Tensor:
    """Overwrites its own input before a raw parameter meets it."""
    x.relu_()
    x += 1
    return model.head(torch.tanh(model.inner(x) * model.scale))


def queried(model: Applied, x: Tensor) -> Tensor:
    """A learned query attends to the tokens: a parameter as the input of rules."""
    y, _ = model.attention(model.query.expand(len(x), -1, -1), x, x)
    return model.head(y.mean(1) + model.inner(model.query[:, 0]))


def checkpointed(model: Applied, x: Tensor) -> Tensor:
    """A part that runs again in the backward pass."""
    return model.head(checkpoint(lambda y: torch.tanh(model.inner(y)) * model.scale, x, use_reentrant=False))


def differentiated(model: Applied, x: Tensor) -> Tensor:
    """The outputs depend on a gradient taken in the forward pass, as forces do on an energy."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        (force,) = torch.autograd.grad(torch.tanh(model.inner(x)).sum(), x, create_graph=True)
    return model.head(force)
