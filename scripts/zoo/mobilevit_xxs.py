"""MobileViT-XXS (Mehta and Rastegari 2021, arXiv:2110.02178) of transformers, 192 pixels."""

from common import images
from hf import logits_of
from torch import nn
from transformers import MobileViTConfig, MobileViTForImageClassification

example_inputs, calibration = images(3, 192)


def model() -> nn.Module:
    config = MobileViTConfig(
        image_size=192, hidden_sizes=[64, 80, 96], neck_hidden_sizes=[16, 16, 24, 48, 64, 80, 320],
        expand_ratio=2.0, hidden_dropout_prob=0.0, num_labels=1000,
    )  # fmt: skip
    return logits_of(lambda: MobileViTForImageClassification(config), example_inputs)
