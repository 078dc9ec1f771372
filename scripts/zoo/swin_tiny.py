"""Swin-Tiny (Liu et al. 2021, arXiv:2103.14030) of transformers: width 96, windows of 7, 224
pixels.
"""

from common import images
from hf import logits_of
from torch import nn
from transformers import SwinConfig, SwinForImageClassification

example_inputs, calibration = images(3, 224)


def config(**options: str) -> SwinConfig:
    return SwinConfig(num_labels=1000, **options)


def model() -> nn.Module:
    return logits_of(lambda: SwinForImageClassification(config()), example_inputs)
