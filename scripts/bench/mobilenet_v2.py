"""MobileNetV2 (Sandler et al. 2018, arXiv:1801.04381), width 1.0, random weights: for benchmarks.

Also a recipe: edgekit build scripts/bench/mobilenet_v2.py --target x86
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

# expansion, output channels, repeats, stride of the first: table 2 of the paper
STAGES = [
    (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2),
    (6, 320, 1, 1),
]  # fmt: skip
CALIBRATION_COUNT = 10


def conv(
    inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1
) -> list[nn.Module]:
    layers: list[nn.Module] = [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    return layers


class Bottleneck(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        layers = [*conv(inputs, hidden, 1), nn.ReLU6()] if expansion > 1 else []
        layers += [*conv(hidden, hidden, 3, stride, groups=hidden), nn.ReLU6()]
        self.body = nn.Sequential(*layers, *conv(hidden, outputs, 1))
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.body(x) if self.residual else self.body(x)


class MobileNetV2(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [*conv(3, 32, 3, 2), nn.ReLU6()]
        channels = 32
        for expansion, outputs, repeats, stride in STAGES:
            for index in range(repeats):
                layers.append(Bottleneck(channels, outputs, stride if index == 0 else 1, expansion))
                channels = outputs
        self.features = nn.Sequential(*layers, *conv(channels, 1280, 1), nn.ReLU6())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(1280, 1000)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.pool(self.features(image)).flatten(1))


def model() -> nn.Module:
    torch.manual_seed(0)
    net = MobileNetV2()
    net.train()
    with torch.no_grad():  # batch statistics of noise: else random weights give vanishing outputs
        for _ in range(3):
            net(torch.randn(8, 3, 96, 96))
    return net.eval()


def example_inputs() -> tuple[torch.Tensor, ...]:
    return (torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(1)),)


def calibration() -> Iterable[tuple[torch.Tensor, ...]]:
    generator = torch.Generator().manual_seed(2)
    for _ in range(CALIBRATION_COUNT):
        yield (torch.randn(1, 3, 224, 224, generator=generator),)
