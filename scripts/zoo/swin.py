"""A Swin transformer (Liu et al. 2021, arXiv:2103.14030) of transformers: width 48, 128 pixels."""

from common import images
from hf import logits_of
from torch import nn
from transformers import SwinConfig, SwinForImageClassification

example_inputs, calibration = images(3, 128)


def model() -> nn.Module:
    config = SwinConfig(
        image_size=128, embed_dim=48, depths=[2, 2, 2], num_heads=[2, 4, 8], window_size=4,
        num_labels=1000,
    )  # fmt: skip
    return logits_of(lambda: SwinForImageClassification(config), example_inputs)
