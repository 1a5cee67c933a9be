"""Tiny random instances of the models that people fine-tune. Each imports its package when it is built."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def gpt(attention: str = "eager") -> nn.Module:
    """GPT-2: Conv1D layers, position embeddings, tied head."""
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(GPT2Config(vocab_size=6, n_positions=4, n_embd=8, n_layer=2, n_head=2, use_cache=False,
                                      bos_token_id=0, eos_token_id=0, initializer_range=0.3,
                                      attn_implementation=attention))


def bert(attention: str = "eager") -> nn.Module:
    """BERT with a classification head."""
    from transformers import BertConfig, BertForSequenceClassification

    return BertForSequenceClassification(BertConfig(
        vocab_size=11, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=12,
        max_position_embeddings=6, num_labels=3, pad_token_id=0, initializer_range=0.3,
        attn_implementation=attention))


def bert_inputs(examples: int, tokens: int) -> dict[str, Tensor]:
    """Token ids and their mask; every example has another length."""
    lengths = torch.randint(2, tokens + 1, (examples, 1))
    mask = (torch.arange(tokens) < lengths).long()
    return {"input_ids": torch.randint(1, 11, (examples, tokens)) * mask, "attention_mask": mask}


def resnet() -> nn.Module:
    """torchvision's ResNet, short and narrow."""
    from torchvision.models.resnet import BasicBlock, ResNet

    class Narrow(ResNet):
        def _make_layer(self, block, planes, blocks, stride=1, dilate=False):  # type: ignore[no-untyped-def]
            return super()._make_layer(block, planes // 16, blocks, stride, dilate)

    model = Narrow(BasicBlock, [1, 2, 1, 1], num_classes=3)
    model.fc = nn.Linear(512 // 16, 3)
    return model


def efficientnet() -> nn.Module:
    """timm's EfficientNet-Lite blocks, few and narrow, one with squeeze-and-excitation."""
    from timm.models.efficientnet import EfficientNet, decode_arch_def

    return EfficientNet(
        block_args=decode_arch_def([["ds_r1_k3_s1_e1_c8"], ["ir_r2_k3_s2_e3_c8"], ["ir_r1_k5_s2_e3_c8_se0.25"]]),
        num_classes=3, num_features=16, stem_size=8, pad_type="same", act_layer=nn.ReLU6, drop_rate=0.2)


def vit() -> nn.Module:
    """timm's ViT: class token, position embeddings, layer scale."""
    import timm

    return timm.create_model("vit_tiny_patch16_224", img_size=16, patch_size=8, embed_dim=8, depth=2, num_heads=2,
                             num_classes=3, init_values=0.1)
