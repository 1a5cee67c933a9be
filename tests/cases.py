"""The models on which an estimate must be right: lazy rows, each built only when a test asks for it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize
from torch.utils.checkpoint import checkpoint

from tests import networks as N
from tests import pretrained
from tests.case import Case, cut, length
from tests.oracles import Meaning

__all__ = ["CASES", "COUNT", "Case", "cut", "length"]

def data(*shape: int, examples: int = 9, classes: int = 3) -> tuple[Tensor, Tensor]:
    """Random inputs and one class an example."""
    return torch.randn(examples, *shape), torch.randint(classes, (examples,))


def words(tokens: int, vocabulary: int = 5, examples: int = 9, classes: int = 3) -> tuple[Tensor, Tensor]:
    """Random token numbers and one class an example."""
    return torch.randint(vocabulary, (examples, tokens)), torch.randint(classes, (examples,))


def positions(classes: int, tokens: int, examples: int = 5, first: int = 0) -> Tensor:
    """A class a position, from ``first`` on; one in five is ignored, and one whole example but its last position."""
    labels = first + torch.randint(classes, (examples, tokens))
    labels[torch.rand(examples, tokens) < 0.2] = -100
    labels[1, :-1] = -100
    return labels


def lengths(counts: Tensor, tokens: int = 3) -> Tensor:
    """A mask with this many tokens an example."""
    return torch.arange(tokens) < counts[:, None]


def mlp(bias: bool = True, classes: int = 3) -> nn.Module:
    return nn.Sequential(nn.Linear(4, 5, bias=bias), nn.Tanh(), nn.Linear(5, classes, bias=bias))


def normed(norm: nn.Module, *, image: bool = True, classes: int = 3) -> tuple[nn.Module, Any]:
    """A norm between two layers, on images [4, 3, 3] after the first or on vectors of width 4."""
    if image:
        return N.convolutional(nn.Conv2d(2, 4, 2), norm, nn.Tanh(), channels=4, classes=classes), data(2, 4, 4)
    return nn.Sequential(nn.Linear(4, 4), norm, nn.Tanh(), nn.Linear(4, classes)), data(4)


def conv(layer: nn.Module, *shape: int, channels: int, dims: int = 2, after: nn.Module | None = None) -> Any:
    layers = (layer, nn.Tanh(), after, nn.Tanh()) if after else (layer, nn.Tanh())
    return N.convolutional(*layers, channels=channels, dims=dims), data(*shape)


def frozen(model: nn.Module, *prefixes: str) -> nn.Module:
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not name.startswith(prefixes))
    return model


def parametrized(register: Callable[[nn.Module], Any], index: int = 0) -> tuple[nn.Module, Any]:
    model = mlp() if index else nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3))
    register(model[index])
    return model, data(4)


def confident() -> tuple[nn.Module, Any]:
    """Logits near ±60: all but one probability underflow in float32."""
    model = mlp()
    with torch.no_grad():
        model[2].weight *= 60
    return model, data(4)


def shifted_head(model: nn.Module, batch: Any) -> tuple[Tensor, Tensor]:
    """An adapter for data whose targets come first and count from one."""
    targets, inputs = batch
    return model(inputs), targets - 1


def language(attention: str) -> tuple[nn.Module, Any]:
    tokens = torch.randint(6, (5, 4))
    labels = tokens.clone()
    labels[0, 2], labels[3, 0], labels[4, 1:3] = -100, -100, -100
    return pretrained.gpt(attention), {"input_ids": tokens, "labels": labels}


def sentences(attention: str) -> tuple[nn.Module, Any]:
    return pretrained.bert(attention), {**pretrained.bert_inputs(9, 5), "labels": torch.randint(3, (9,))}


def binary(examples: int, outputs: int) -> Tensor:
    return torch.randint(2, (examples, outputs)).float()


CATEGORICAL, CAUSAL = Meaning(), Meaning("causal")
POSITIONS = Meaning("positions")
BERNOULLI, GAUSSIAN = Meaning("bernoulli"), Meaning("gaussian", variance=0.7)

PLAIN = (
    Case("mlp", lambda: (mlp(), data(4))),
    Case("mlp_no_bias", lambda: (mlp(bias=False), data(4))),
    Case("one_layer", lambda: (nn.Linear(4, 3), data(4))),
    Case("relu_in_place", lambda: (nn.Sequential(nn.Linear(4, 6), nn.ReLU(inplace=True), nn.Linear(6, 3)), data(4))),
    Case("residual_in_place", lambda: (N.InPlaceResidual(), data(2, 4, 4))),
    Case("prelu", lambda: (nn.Sequential(nn.Linear(4, 5), nn.PReLU(5), nn.Linear(5, 3), nn.PReLU()), data(4))),
    Case("bilinear", lambda: (N.Applied(
        lambda m, x: m.inner(x[:, :2], x[:, 2:]), inner=nn.Bilinear(2, 2, 3)), data(4))),
    Case("dropout", lambda: (nn.Sequential(nn.Dropout(0.3), mlp(), nn.Dropout(0.2)), data(4)), train=True),
    Case("frozen_trunk", lambda: (frozen(nn.Sequential(mlp(classes=4), nn.Tanh(), nn.Linear(4, 3)), "0."), data(4))),
    Case("frozen_middle", lambda: (frozen(nn.Sequential(mlp(classes=4), nn.Tanh(), nn.Linear(4, 3)), "0.2."), data(4))),
    Case("biases_only", lambda: (frozen(mlp(), "0.weight", "2.weight"), data(4))),
    Case("selected", lambda: (mlp(), data(4)), parameters=("0.*", "2.bias")),
    Case("confident", confident),
    Case("shared_layer", lambda: (N.Applied(
        lambda m, x: m.head(torch.tanh(m.inner(torch.tanh(m.inner(x))))),
        inner=nn.Linear(4, 4), head=nn.Linear(4, 3)), data(4))),
    Case("shared_across_shapes", lambda: (N.Applied(
        lambda m, x: m.head(m.inner(x).tanh().mean((2, 3)) + m.inner(F.avg_pool2d(x, 2)).tanh().mean((2, 3))),
        inner=nn.Conv2d(2, 4, 2), head=nn.Linear(4, 3)), data(2, 6, 6))),
    Case("unused_parameter", lambda: (N.Applied(
        lambda m, x: m.inner(x), inner=nn.Linear(4, 3), idle=nn.Linear(2, 2)), data(4))),
)

CONVOLUTIONS = (
    Case("conv", lambda: conv(nn.Conv2d(2, 4, 3, padding=1), 2, 5, 5, channels=3, after=nn.Conv2d(4, 3, 1))),
    Case("conv_grouped", lambda: conv(nn.Conv2d(4, 6, 3, stride=2, dilation=2, groups=2, padding=1, bias=False),
                                      4, 7, 7, channels=6)),
    Case("conv_depthwise", lambda: conv(nn.Conv2d(3, 6, 3, groups=3), 3, 5, 4, channels=6)),
    Case("conv_transposed", lambda: conv(
        nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2), 4, 3, 3, channels=6)),
    Case("conv_transposed_1d", lambda: conv(nn.ConvTranspose1d(2, 3, 2, dilation=2), 2, 4, channels=3, dims=1)),
    Case("conv_1d", lambda: conv(nn.Conv1d(3, 4, 3, padding="same"), 3, 6, channels=4, dims=1)),
    Case("conv_3d", lambda: conv(nn.Conv3d(2, 3, 2), 2, 3, 3, 3, channels=3, dims=3)),
    Case("conv_circular", lambda: conv(nn.Conv2d(2, 4, 3, padding=1, padding_mode="circular"), 2, 4, 5, channels=4)),
    Case("conv_reflected", lambda: conv(nn.Conv2d(2, 4, (3, 1), padding=(1, 0), padding_mode="reflect"),
                                        2, 4, 5, channels=4)),
    Case("conv_standardised", lambda: (N.Applied(
        lambda m, x: m.head(F.conv2d(x, m.weight - m.weight.mean((1, 2, 3), keepdim=True)).tanh().mean((2, 3))),
        weight=N.raw(4, 2, 3, 3), head=nn.Linear(4, 3)), data(2, 4, 4))),
)

TOKENS = (
    Case("embedding", lambda: (nn.Sequential(nn.Embedding(5, 4, padding_idx=0), nn.Tanh(), N.Mean(1), nn.Linear(4, 3)),
                               words(4))),
    Case("embedding_rescaled", lambda: (nn.Sequential(nn.Embedding(5, 4, max_norm=0.5), N.Mean(1), nn.Linear(4, 3)),
                                        words(4))),
    Case("embedding_bag", lambda: (nn.Sequential(nn.EmbeddingBag(5, 4, mode="mean"), nn.Linear(4, 3)), words(4))),
    Case("attention", lambda: (N.Attention(True), data(3, 4))),
    Case("attention_sequence_first", lambda: (N.Attention(False), data(3, 4))),
    Case("attention_cross", lambda: (N.Attention(True, kdim=3, vdim=2, add_bias_kv=True), data(3, 4))),
    Case("encoder_layer", lambda: (nn.Sequential(
        nn.TransformerEncoderLayer(4, 2, 6, batch_first=True), N.Mean(1), nn.Linear(4, 3)), data(3, 4))),
    Case("encoder_layer_frozen", lambda: (frozen(nn.Sequential(
        nn.TransformerEncoderLayer(4, 2, 6, batch_first=True, norm_first=True), N.Mean(1), nn.Linear(4, 3)),
        "0.self_attn"), data(3, 4))),
    Case("attention_by_hand", lambda: (N.RawAttention(), data(3, 4))),
    Case("learned_query", lambda: (N.Applied(
        N.queried, query=N.raw(1, 2, 4), attention=nn.MultiheadAttention(4, 2, batch_first=True),
        inner=nn.Linear(4, 4), head=nn.Linear(4, 3)), data(3, 4))),
    Case("lstm", lambda: (N.Recurrent(nn.LSTM, num_layers=2, bidirectional=True), data(4, 3, examples=8))),
    Case("gru", lambda: (N.Recurrent(nn.GRU, batch_first=True), data(4, 3))),
    Case("lstm_unrolled", lambda: (N.Unrolled(), data(3, 3))),
)

NORMS = (
    Case("batch_norm", lambda: normed(nn.BatchNorm2d(4))),
    Case("batch_norm_vectors", lambda: normed(nn.BatchNorm1d(4), image=False)),
    Case("layer_norm", lambda: normed(nn.LayerNorm(4), image=False)),
    Case("layer_norm_images", lambda: normed(nn.LayerNorm((3, 3)))),
    Case("group_norm", lambda: normed(nn.GroupNorm(2, 4))),
    Case("rms_norm", lambda: normed(nn.RMSNorm(4), image=False)),
    Case("instance_norm", lambda: normed(nn.InstanceNorm2d(4, affine=True))),
    Case("instance_norm_tracked", lambda: normed(nn.InstanceNorm2d(4, affine=True, track_running_stats=True))),
)

RAW = (
    Case("position_embedding", lambda: (N.Applied(
        lambda m, x: m.head(torch.tanh(x + m.position).mean(1)), position=N.raw(3, 4), head=nn.Linear(4, 3)),
        data(3, 4))),
    Case("class_token", lambda: (N.ClassToken(), data(4, 4))),
    Case("layer_scale", lambda: (N.Applied(
        lambda m, x: x[:, :3] + m.scale * m.inner(x), scale=N.raw(3), inner=nn.Linear(4, 3)), data(4))),
    Case("temperature", lambda: (N.Applied(
        lambda m, x: m.inner(x) * m.scale.exp() + m.bias, scale=N.raw(), bias=N.raw(3), inner=nn.Linear(4, 3)),
        data(4))),
    Case("mask_token", lambda: (N.MaskToken(), data(3, 4))),
    Case("indexed_table", lambda: (N.Applied(
        lambda m, x: m.head(torch.tanh(m.table[x] + m.rows[[0, 1, 0, 1]]).mean(1)),
        table=N.raw(5, 4), rows=N.raw(2, 4), head=nn.Linear(4, 3)), words(4))),
    Case("tied_weights", lambda: (N.Tied(), (words(3, examples=5)[0], positions(5, 3))), POSITIONS),
    Case("weight_norm", lambda: parametrized(parametrizations.weight_norm)),
    Case("spectral_norm", lambda: parametrized(parametrizations.spectral_norm, 2)),
    Case("orthogonal", lambda: parametrized(parametrizations.orthogonal)),
    Case("symmetric", lambda: parametrized(lambda m: parametrize.register_parametrization(m, "weight", N.Symmetric()))),
    Case("transposed_by_hand", lambda: (N.Applied(
        lambda m, x: torch.addmm(m.bias, torch.tanh(x @ m.first.t()), m.second),
        first=N.raw(5, 4), second=N.raw(5, 3), bias=N.raw(3)), data(4))),
    Case("einsum", lambda: (N.Applied(
        lambda m, x: torch.einsum("ntd,hdc,h->nc", x, m.weight, m.gate), weight=N.raw(2, 4, 3), gate=N.raw(2)),
        data(3, 4))),
    Case("checkpointed", lambda: (N.Applied(
        N.checkpointed, inner=nn.Linear(4, 4), scale=N.raw(4), head=nn.Linear(4, 3)), data(4))),
    Case("checkpointed_closed_form", lambda: (N.Applied(
        lambda m, x: m.head(checkpoint(lambda y: torch.tanh(m.inner(y)), x, use_reentrant=False)),
        inner=nn.Linear(4, 4), head=nn.Linear(4, 3)), data(4))),
    Case("differentiated_inside", lambda: (N.Applied(
        N.differentiated, inner=nn.Linear(4, 4), head=nn.Linear(4, 3)), data(4))),
    Case("custom_function", lambda: (N.Applied(
        lambda m, x: m.head(torch.tanh(N.Scaled.apply(x, m.scale))), scale=N.raw(4), head=nn.Linear(4, 3)), data(4))),
    Case("penalised_weights", lambda: (N.Applied(
        lambda m, x: m.inner(x) * m.inner.weight.norm() + torch.stack([m.a, m.b]).sum(0),
        inner=nn.Linear(4, 3), a=N.raw(3), b=N.raw(3)), data(4))),
)

LAYOUTS = (
    Case("dict_inputs", lambda: (N.Branches(), (
        {"values": torch.randn(9, 3, 4), "mask": torch.rand(9, 3) + 0.1}, torch.randint(3, (9,))))),
    Case("tuple_inputs", lambda: (N.Branches(), (
        (torch.randn(9, 3, 4), torch.rand(9, 3) + 0.1), torch.randint(3, (9,))))),
    Case("adapted_batches", lambda: (mlp(), (torch.randint(1, 4, (9,)), torch.randn(9, 4))), forward=shifted_head),
    Case("sequence_first", lambda: (N.SequenceFirst(3), data(3, 4))),
    Case("sequence_first_ambiguous", lambda: (N.SequenceFirst(7), data(7, 4, examples=9))),
    Case("square_batch", lambda: (nn.Sequential(nn.Linear(9, 9), nn.Tanh(), nn.Linear(9, 9)), data(9, classes=9))),
    Case("merged_example_major", lambda: (N.Merged(False), data(3, 4))),
    Case("merged_position_major", lambda: (N.Merged(True), data(3, 4))),
    Case("merged_ambiguous", lambda: (N.Merged(True), data(7, 4))),
    Case("unpadded", lambda: (N.Unpadded(), (
        (torch.randn(9, 3, 4), lengths(torch.tensor([2, 2, 3, 1, 2, 3, 1, 3, 1]))), torch.randint(3, (9,))))),
    Case("experts", lambda: (N.Experts(), data(4))),
    Case("overwritten_input", lambda: (N.Applied(
        N.overwriting, inner=nn.Linear(4, 4), scale=N.raw(4), head=nn.Linear(4, 3)), data(4))),
    Case("windows", lambda: (N.Windows(), data(6, 4))),
)

LIKELIHOODS = (
    Case("multi_head", lambda: (mlp(classes=6), (torch.randn(9, 4), torch.tensor([1, 4, 5])[torch.randint(3, (9,))])),
         Meaning(outputs=(1, 4, 5))),
    Case("multi_head_unordered", lambda: (
        mlp(classes=5), (torch.randn(9, 4), torch.tensor([3, 0])[torch.randint(2, (9,))])), Meaning(outputs=(3, 0))),
    Case("positions", lambda: (mlp(), (torch.randn(5, 4, 4), positions(3, 4))), POSITIONS),
    Case("positions_restricted", lambda: (mlp(classes=4), (torch.randn(5, 3, 4), positions(2, 3, first=2))),
         Meaning("positions", outputs=(2, 3))),
    Case("ignored_examples", lambda: (mlp(), (torch.randn(9, 4), torch.tensor([0, 1, -100, 2, 2, -100, 1, 0, -100]))),
         POSITIONS),
    Case("gaussian", lambda: (mlp(), (torch.randn(9, 4), torch.randn(9, 3))), GAUSSIAN),
    Case("gaussian_positions", lambda: (mlp(classes=2), (torch.randn(5, 3, 4), torch.randn(5, 3, 2))), GAUSSIAN),
    Case("gaussian_multi_head", lambda: (mlp(classes=4), (torch.randn(9, 4), torch.randn(9, 2))),
         Meaning("gaussian", outputs=(1, 3), variance=0.7)),
    Case("gaussian_no_output_dimension", lambda: (
        nn.Sequential(mlp(classes=1), nn.Flatten(0)), (torch.randn(9, 4), torch.randn(9))), GAUSSIAN),
    Case("gaussian_whole_numbers", lambda: (mlp(), (torch.randn(9, 4), torch.randint(-9, 9, (9, 3)))), GAUSSIAN),
    Case("bernoulli", lambda: (mlp(), (torch.randn(9, 4), binary(9, 3))), BERNOULLI),
    Case("bernoulli_one_output", lambda: (mlp(classes=1), (torch.randn(9, 4), binary(9, 1))), BERNOULLI),
    Case("bernoulli_whole_numbers", lambda: (mlp(classes=1), (torch.randn(9, 4), binary(9, 1).long())), BERNOULLI),
)

PRETRAINED = (
    Case("gpt", partial(language, "eager"), CAUSAL, needs="transformers"),
    Case("gpt_sdpa", partial(language, "sdpa"), CAUSAL, needs="transformers"),
    Case("bert", partial(sentences, "eager"), needs="transformers"),
    Case("bert_sdpa", partial(sentences, "sdpa"), needs="transformers"),
    Case("resnet", lambda: (pretrained.resnet(), data(3, 32, 32)), needs="torchvision", train=True),
    Case("efficientnet", lambda: (pretrained.efficientnet(), data(3, 32, 32)), needs="timm", train=True),
    Case("vit", lambda: (pretrained.vit(), data(3, 16, 16)), needs="timm"),
)

CASES = {case.name: case for group in (PLAIN, CONVOLUTIONS, TOKENS, NORMS, RAW, LAYOUTS, LIKELIHOODS, PRETRAINED)
         for case in group}
COUNT = 98
