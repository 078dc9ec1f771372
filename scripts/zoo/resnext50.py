"""ResNeXt-50 32x4d (Xie et al. 2016, arXiv:1611.05431): 32 groups, 160 pixels."""

from common import images, settled
from resnet50 import resnet50
from torch import nn

example_inputs, calibration = images(3, 160)


def model() -> nn.Module:
    return settled(lambda: resnet50(groups=32, group_width=4), example_inputs, shift=1.0)
