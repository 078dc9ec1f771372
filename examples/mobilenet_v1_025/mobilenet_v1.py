"""MobileNetV1 (Howard et al. 2017, arXiv:1704.04861) of width 0.25, for 1000 classes.

A variant with LeakyReLU: the backbone of a face detector (biubug6/Pytorch_Retinaface). The modules
have its names.
"""

from __future__ import annotations

import torch
from torch import nn

SLOPE = 0.1  # of LeakyReLU below zero


def conv(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.LeakyReLU(SLOPE),
    )


def separable(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """A depthwise 3x3 and a pointwise convolution, in one flat sequence of six."""
    return nn.Sequential(*conv(inputs, inputs, 3, stride, groups=inputs), *conv(inputs, outputs, 1))


class MobileNetV1(nn.Module):
    """RGB (N, 3, 224, 224) to scores (N, 1000)."""

    def __init__(self) -> None:
        super().__init__()
        self.stage1 = nn.Sequential(
            conv(3, 8, 3, stride=2),
            separable(8, 16),
            separable(16, 32, stride=2),
            separable(32, 32),
            separable(32, 64, stride=2),
            separable(64, 64),
        )
        self.stage2 = nn.Sequential(
            separable(64, 128, stride=2), *(separable(128, 128) for _ in range(5))
        )
        self.stage3 = nn.Sequential(separable(128, 256, stride=2), separable(256, 256))
        self.avg = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(256, 1000)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        features = self.stage3(self.stage2(self.stage1(image)))
        return self.fc(self.avg(features).flatten(1))
