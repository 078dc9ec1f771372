"""The person detector of MLPerf Tiny: MobileNetV1, width 0.25, 96 pixels, two classes."""

from common import images, settled
from mobilenet_v1 import mobilenet
from torch import nn

example_inputs, calibration = images(3, 96)


def model() -> nn.Module:
    return settled(lambda: mobilenet(0.25, classes=2), example_inputs, shift=1.0)
