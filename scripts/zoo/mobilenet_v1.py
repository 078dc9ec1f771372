"""MobileNetV1 (Howard et al. 2017, arXiv:1704.04861), width 1.0, 224 pixels."""

from common import Classifier, conv_norm, images, settled
from torch import nn

# output channels and stride of each depthwise-separable block: table 1 of the paper
BLOCKS = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2),
          (1024, 1)]  # fmt: skip


def mobilenet(width: float = 1.0, channels: int = 3, classes: int = 1000) -> nn.Module:
    inputs = int(32 * width)
    layers = [conv_norm(channels, inputs, 3, 2)]
    for outputs, stride in BLOCKS:
        outputs = int(outputs * width)
        layers += [conv_norm(inputs, inputs, 3, stride, inputs), conv_norm(inputs, outputs)]
        inputs = outputs
    return nn.Sequential(*layers, Classifier(inputs, classes))


example_inputs, calibration = images(3, 224)


def model() -> nn.Module:
    return settled(mobilenet, example_inputs, shift=1.0)
