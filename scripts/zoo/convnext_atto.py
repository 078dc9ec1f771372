"""ConvNeXt, the size "atto" (Liu et al. 2022, arXiv:2201.03545), of transformers, 224 pixels."""

from common import images
from hf import logits_of
from torch import nn
from transformers import ConvNextConfig, ConvNextForImageClassification

example_inputs, calibration = images(3, 224)


def model() -> nn.Module:
    config = ConvNextConfig(
        hidden_sizes=[40, 80, 160, 320], depths=[2, 2, 6, 2], layer_scale_init_value=1.0,
        num_labels=1000,
    )  # fmt: skip
    return logits_of(lambda: ConvNextForImageClassification(config), example_inputs)
