"""Swin-Tiny of swin_tiny.py with its attention written out, without torch's guard against fully
masked rows; 224 pixels.
"""

from common import images
from hf import logits_of
from swin_tiny import config
from torch import nn
from transformers import SwinForImageClassification

example_inputs, calibration = images(3, 224)


def model() -> nn.Module:
    eager = config(attn_implementation="eager")
    return logits_of(lambda: SwinForImageClassification(eager), example_inputs)
