"""The rows that need a GPU, in float32 and bfloat16: 1.3 × a forward+backward is promised of each."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from benchmarks.speed.models import Logits, Row, bert, gpt, residual, timm_model

MUST = 1.3


def decoder() -> nn.Module:
    """A decoder of about a billion parameters: 16 layers × 2048, grouped keys, gated units, tied head."""
    from transformers import LlamaConfig, LlamaForCausalLM

    return Logits(LlamaForCausalLM(LlamaConfig(
        vocab_size=32000, hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_attention_heads=32,
        num_key_value_heads=8, max_position_embeddings=512, tie_word_embeddings=True, use_cache=False)))


def rows() -> Iterator[Row]:
    """Every GPU row."""
    for dtype in (torch.float32, torch.bfloat16):
        kind = str(dtype).removeprefix("torch.")
        same = {"dtype": dtype, "must": MUST, "rounds": 15}
        for depth in (18, 50):
            yield Row(f"resnet{depth}-224-{kind}", f"ResNet-{depth} at 224 px, 64, {kind}",
                      lambda depth=depth: residual(f"resnet{depth}"), (3, 224, 224), 64, 1000,
                      needs=("torchvision",), **same)
        yield Row(f"vit-base-{kind}", f"ViT-B at 224 px, 64, {kind}", lambda: timm_model("vit_base_patch16_224"),
                  (3, 224, 224), 64, 1000, needs=("timm",), **same)
        yield Row(f"bert-base-{kind}", f"BERT-base, 128 tokens, 64, {kind}", lambda: bert(12, 768, 12), (128,), 64, 2,
                  vocabulary=30522, needs=("transformers",), **same)
        yield Row(f"gpt2-1024-{kind}", f"GPT-2, 12 layers × 768, 1024 tokens, 8, {kind}",
                  lambda: gpt(12, 768, 12, 1024), (1024,), 8, 50257,
                  vocabulary=50257, causal=True, examples=2, needs=("transformers",), **same)
        yield Row(f"decoder-1b-{kind}", f"decoder of 1.0 G parameters, 512 tokens, 8, {kind}", decoder, (512,), 8,
                  32000, vocabulary=32000, causal=True, examples=2, needs=("transformers",), **same)


CUDA = {row.name: row for row in rows()}
