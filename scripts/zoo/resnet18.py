"""ResNet-18 (He et al. 2015, arXiv:1512.03385), 224 pixels."""

from common import Classifier, Residual, conv_norm, images, settled
from torch import nn


def basic(inputs: int, outputs: int, stride: int) -> nn.Module:
    body = nn.Sequential(
        conv_norm(inputs, outputs, 3, stride), conv_norm(outputs, outputs, 3, activation=None)
    )
    return Residual(body, projection(inputs, outputs, stride), nn.ReLU())


def projection(inputs: int, outputs: int, stride: int) -> nn.Module | None:
    if stride == 1 and inputs == outputs:
        return None
    return conv_norm(inputs, outputs, 1, stride, activation=None)


def resnet18() -> nn.Module:
    layers: list[nn.Module] = [conv_norm(3, 64, 7, 2), nn.MaxPool2d(3, 2, 1)]
    inputs = 64
    for outputs in (64, 128, 256, 512):
        stride = 1 if outputs == 64 else 2
        layers += [basic(inputs, outputs, stride), basic(outputs, outputs, 1)]
        inputs = outputs
    return nn.Sequential(*layers, Classifier(inputs))


example_inputs, calibration = images(3, 224)


def model() -> nn.Module:
    return settled(resnet18, example_inputs)
