"""Segmentation with dilated convolutions: a ResNet-18 trunk at stride 8 and the pyramid of
DeepLabV3 (Chen et al. 2017, arXiv:1706.05587), rates 6, 12, 18; 160 pixels, 21 classes.
"""

import torch
from common import Residual, conv_norm, images, settled
from torch import nn
from torch.nn import functional

RATES = (6, 12, 18)


def dilated(inputs: int, outputs: int, rate: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=rate, dilation=rate, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


def block(inputs: int, outputs: int, stride: int, rate: int) -> nn.Module:
    last = nn.Conv2d(outputs, outputs, 3, padding=rate, dilation=rate, bias=False)
    body = nn.Sequential(conv_norm(inputs, outputs, 3, stride), last, nn.BatchNorm2d(outputs))
    same = stride == 1 and inputs == outputs
    shortcut = None if same else conv_norm(inputs, outputs, 1, stride, activation=None)
    return Residual(body, shortcut, nn.ReLU())


class DeepLab(nn.Module):
    def __init__(self, classes: int = 21) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            conv_norm(3, 32, 7, 2), nn.MaxPool2d(3, 2, 1),
            block(32, 32, 1, 1), block(32, 64, 2, 1), block(64, 64, 1, 1),
            block(64, 128, 1, 2), block(128, 128, 1, 2), block(128, 256, 1, 4),
        )  # fmt: skip
        self.rates = nn.ModuleList([conv_norm(256, 64), *[dilated(256, 64, r) for r in RATES]])
        self.whole = nn.Sequential(nn.AdaptiveAvgPool2d(1), conv_norm(256, 64))
        self.head = nn.Sequential(conv_norm(64 * 5, 64), nn.Conv2d(64, classes, 1))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.trunk(image)
        whole = functional.interpolate(self.whole(x), x.shape[2:], mode="bilinear")
        y = self.head(torch.cat([*[rate(x) for rate in self.rates], whole], 1))
        return functional.interpolate(y, image.shape[2:], mode="bilinear")


example_inputs, calibration = images(3, 160)


def model() -> nn.Module:
    return settled(DeepLab, example_inputs, shift=1.0)
