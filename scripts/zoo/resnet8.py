"""The image classifier of MLPerf Tiny: ResNet-8 for 32 pixels and ten classes."""

from common import Classifier, conv_norm, images, settled
from resnet18 import basic
from torch import nn

example_inputs, calibration = images(3, 32)


def resnet8() -> nn.Module:
    stages = [basic(16, 16, 1), basic(16, 32, 2), basic(32, 64, 2)]
    return nn.Sequential(conv_norm(3, 16, 3), *stages, Classifier(64, 10))


def model() -> nn.Module:
    return settled(resnet8, example_inputs)
