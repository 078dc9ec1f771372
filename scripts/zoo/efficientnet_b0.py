"""EfficientNet-B0 (Tan and Le 2019, arXiv:1905.11946), 224 pixels."""

from common import Classifier, Residual, SqueezeExcite, conv_norm, images, settled
from torch import nn

# expansion, kernel, output channels, repeats, first stride: table 1 of the paper
STAGES = [
    (1, 3, 16, 1, 1), (6, 3, 24, 2, 2), (6, 5, 40, 2, 2), (6, 3, 80, 3, 2), (6, 5, 112, 3, 1),
    (6, 5, 192, 4, 2), (6, 3, 320, 1, 1),
]  # fmt: skip


def block(inputs: int, outputs: int, expansion: int, kernel: int, stride: int) -> nn.Module:
    hidden = inputs * expansion
    layers: list[nn.Module] = []
    if expansion > 1:
        layers.append(conv_norm(inputs, hidden, activation=nn.SiLU))
    layers += [
        conv_norm(hidden, hidden, kernel, stride, hidden, nn.SiLU),
        SqueezeExcite(hidden, max(1, inputs // 4)),
        conv_norm(hidden, outputs, activation=None),
    ]
    body = nn.Sequential(*layers)
    return Residual(body) if stride == 1 and inputs == outputs else body


def efficientnet() -> nn.Module:
    layers: list[nn.Module] = [conv_norm(3, 32, 3, 2, activation=nn.SiLU)]
    inputs = 32
    for expansion, kernel, outputs, repeats, first in STAGES:
        for index in range(repeats):
            layers.append(block(inputs, outputs, expansion, kernel, first if index == 0 else 1))
            inputs = outputs
    return nn.Sequential(*layers, conv_norm(inputs, 1280, activation=nn.SiLU), Classifier(1280))


example_inputs, calibration = images(3, 224)


def model() -> nn.Module:
    return settled(efficientnet, example_inputs, shift=1.0)
