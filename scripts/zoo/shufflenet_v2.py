"""ShuffleNetV2 1.0x (Ma et al. 2018, arXiv:1807.11164), 224 pixels."""

import torch
from common import Classifier, conv_norm, images, settled
from torch import nn

STAGES = [(116, 4), (232, 8), (464, 4)]  # channels, blocks: table 5 of the paper


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        half = outputs // 2
        source = inputs if stride == 2 else half
        self.split = stride == 1
        self.one = nn.Identity()
        if stride == 2:
            self.one = nn.Sequential(
                conv_norm(source, source, 3, 2, source, None), conv_norm(source, half)
            )
        self.other = nn.Sequential(
            conv_norm(source, half),
            conv_norm(half, half, 3, stride, half, None),
            conv_norm(half, half),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        one, other = x.chunk(2, 1) if self.split else (x, x)
        return shuffle(torch.cat([self.one(one), self.other(other)], 1))


def shuffle(x: torch.Tensor) -> torch.Tensor:
    batch, channels, height, width = x.shape
    x = x.view(batch, 2, channels // 2, height, width).transpose(1, 2)
    return x.reshape(batch, channels, height, width)


def shufflenet() -> nn.Module:
    layers: list[nn.Module] = [conv_norm(3, 24, 3, 2), nn.MaxPool2d(3, 2, 1)]
    inputs = 24
    for outputs, blocks in STAGES:
        layers += [Block(inputs, outputs, 2)]
        layers += [Block(outputs, outputs, 1) for _ in range(blocks - 1)]
        inputs = outputs
    return nn.Sequential(*layers, conv_norm(inputs, 1024), Classifier(1024))


example_inputs, calibration = images(3, 224)


def model() -> nn.Module:
    return settled(shufflenet, example_inputs, shift=1.0)
