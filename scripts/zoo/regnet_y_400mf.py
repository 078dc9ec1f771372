"""RegNetY-400MF (Radosavovic et al. 2020, arXiv:2003.13678): grouped convolutions, 224 pixels."""

from common import Classifier, Residual, SqueezeExcite, conv_norm, images, settled
from torch import nn

STAGES = [(48, 1), (104, 3), (208, 6), (440, 6)]  # channels, blocks
GROUP = 8


def block(inputs: int, outputs: int, stride: int) -> nn.Module:
    body = nn.Sequential(
        conv_norm(inputs, outputs),
        conv_norm(outputs, outputs, 3, stride, outputs // GROUP),
        SqueezeExcite(outputs, max(1, inputs // 4)),
        conv_norm(outputs, outputs, activation=None),
    )
    same = stride == 1 and inputs == outputs
    shortcut = None if same else conv_norm(inputs, outputs, 1, stride, activation=None)
    return Residual(body, shortcut, nn.ReLU())


def regnet() -> nn.Module:
    layers: list[nn.Module] = [conv_norm(3, 32, 3, 2)]
    inputs = 32
    for outputs, blocks in STAGES:
        for index in range(blocks):
            layers.append(block(inputs, outputs, 2 if index == 0 else 1))
            inputs = outputs
    return nn.Sequential(*layers, Classifier(inputs))


example_inputs, calibration = images(3, 224)


def model() -> nn.Module:
    return settled(regnet, example_inputs, shift=1.0)
