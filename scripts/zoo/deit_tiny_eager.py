"""DeiT-Tiny/16 of deit_tiny.py with its attention written out, without torch's guard against fully
masked rows; 224 pixels.
"""

from common import images
from deit_tiny import config
from hf import logits_of
from torch import nn
from transformers import DeiTForImageClassification

example_inputs, calibration = images(3, 224)


def model() -> nn.Module:
    eager = config(attn_implementation="eager")
    return logits_of(lambda: DeiTForImageClassification(eager), example_inputs)
