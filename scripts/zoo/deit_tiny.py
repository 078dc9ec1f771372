"""DeiT-Tiny/16 (Touvron et al. 2020, arXiv:2012.12877) of transformers, 224 pixels."""

from common import images
from hf import logits_of
from torch import nn
from transformers import DeiTConfig, DeiTForImageClassification

example_inputs, calibration = images(3, 224)


def config(**options: str) -> DeiTConfig:
    return DeiTConfig(
        hidden_size=192, num_hidden_layers=12, num_attention_heads=3, intermediate_size=768,
        num_labels=1000, **options,
    )  # fmt: skip


def model() -> nn.Module:
    return logits_of(lambda: DeiTForImageClassification(config()), example_inputs)
