"""ResNet-50 (He et al. 2015, arXiv:1512.03385), stride in the 3x3 convolution, 224 pixels."""

from common import Classifier, Residual, conv_norm, images, settled
from resnet18 import projection
from torch import nn

STAGES = [(64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)]  # width, blocks, first stride


def bottleneck(inputs: int, width: int, stride: int, groups: int, outputs: int) -> nn.Module:
    body = nn.Sequential(
        conv_norm(inputs, width),
        conv_norm(width, width, 3, stride, groups),
        conv_norm(width, outputs, activation=None),
    )
    return Residual(body, projection(inputs, outputs, stride), nn.ReLU())


def resnet50(groups: int = 1, group_width: int = 64, stages: list = STAGES) -> nn.Module:
    layers: list[nn.Module] = [conv_norm(3, 64, 7, 2), nn.MaxPool2d(3, 2, 1)]
    inputs = 64
    for width, blocks, first in stages:
        inner = width * group_width * groups // 64
        for index in range(blocks):
            stride = first if index == 0 else 1
            layers.append(bottleneck(inputs, inner, stride, groups, width * 4))
            inputs = width * 4
    return nn.Sequential(*layers, Classifier(inputs))


example_inputs, calibration = images(3, 224)


def model() -> nn.Module:
    return settled(resnet50, example_inputs, shift=1.0)
