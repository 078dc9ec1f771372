"""DenseNet-121 (Huang et al. 2016, arXiv:1608.06993), 160 pixels."""

import torch
from common import Classifier, images, settled
from torch import nn

BLOCKS = [6, 12, 24, 16]
GROWTH = 32


def norm_conv(inputs: int, outputs: int, kernel: int) -> list[nn.Module]:
    conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
    return [nn.BatchNorm2d(inputs), nn.ReLU(), conv]


class Dense(nn.Module):
    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *norm_conv(inputs, 4 * GROWTH, 1), *norm_conv(4 * GROWTH, GROWTH, 3)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, self.body(x)], 1)


def densenet() -> nn.Module:
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)]
    layers += [nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    channels = 64
    for number, count in enumerate(BLOCKS):
        for _ in range(count):
            layers.append(Dense(channels))
            channels += GROWTH
        if number < len(BLOCKS) - 1:
            layers += [*norm_conv(channels, channels // 2, 1), nn.AvgPool2d(2)]
            channels //= 2
    return nn.Sequential(*layers, nn.BatchNorm2d(channels), nn.ReLU(), Classifier(channels))


example_inputs, calibration = images(3, 160)


def model() -> nn.Module:
    return settled(densenet, example_inputs, shift=1.0)
