"""MobileNetV3-Small (Howard et al. 2019, arXiv:1905.02244), 224 pixels."""

from common import Residual, SqueezeExcite, conv_norm, images, settled
from torch import nn

RE, HS = nn.ReLU, nn.Hardswish
# kernel, expanded, output, squeeze-excite, activation, stride: table 2 of the paper
SMALL = [
    (3, 16, 16, True, RE, 2), (3, 72, 24, False, RE, 2), (3, 88, 24, False, RE, 1),
    (5, 96, 40, True, HS, 2), (5, 240, 40, True, HS, 1), (5, 240, 40, True, HS, 1),
    (5, 120, 48, True, HS, 1), (5, 144, 48, True, HS, 1), (5, 288, 96, True, HS, 2),
    (5, 576, 96, True, HS, 1), (5, 576, 96, True, HS, 1),
]  # fmt: skip


def bottleneck(inputs: int, row: tuple) -> nn.Module:
    kernel, hidden, outputs, squeeze, activation, stride = row
    layers: list[nn.Module] = []
    if hidden != inputs:
        layers.append(conv_norm(inputs, hidden, activation=activation))
    layers.append(conv_norm(hidden, hidden, kernel, stride, hidden, activation))
    if squeeze:
        layers.append(SqueezeExcite(hidden, -(-hidden // 4 // 8) * 8, nn.Hardsigmoid))
    layers.append(conv_norm(hidden, outputs, activation=None))
    body = nn.Sequential(*layers)
    return Residual(body) if stride == 1 and inputs == outputs else body


def mobilenet_v3(rows: list, hidden: int) -> nn.Module:
    layers: list[nn.Module] = [conv_norm(3, 16, 3, 2, activation=HS)]
    inputs = 16
    for row in rows:
        layers.append(bottleneck(inputs, row))
        inputs = row[2]
    head = [conv_norm(inputs, inputs * 6, activation=HS), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    head += [nn.Linear(inputs * 6, hidden), nn.Hardswish(), nn.Linear(hidden, 1000)]
    return nn.Sequential(*layers, *head)


example_inputs, calibration = images(3, 224)


def model() -> nn.Module:
    return settled(lambda: mobilenet_v3(SMALL, 1024), example_inputs, shift=1.0)
