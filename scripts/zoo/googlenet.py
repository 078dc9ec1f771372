"""GoogLeNet with batch normalisation (Szegedy et al. 2014, arXiv:1409.4842), 224 pixels."""

import torch
from common import Classifier, conv_norm, images, settled
from torch import nn

# 1x1, reduce, 3x3, reduce, 5x5, pool projection: table 1 of the paper; None is a pooling
ROWS = [
    (64, 96, 128, 16, 32, 32), (128, 128, 192, 32, 96, 64), None,
    (192, 96, 208, 16, 48, 64), (160, 112, 224, 24, 64, 64), (128, 128, 256, 24, 64, 64),
    (112, 144, 288, 32, 64, 64), (256, 160, 320, 32, 128, 128), None,
    (256, 160, 320, 32, 128, 128), (384, 192, 384, 48, 128, 128),
]  # fmt: skip


class Inception(nn.Module):
    def __init__(self, inputs: int, row: tuple[int, ...]) -> None:
        super().__init__()
        one, reduce3, three, reduce5, five, pool = row
        self.one = conv_norm(inputs, one)
        self.three = nn.Sequential(conv_norm(inputs, reduce3), conv_norm(reduce3, three, 3))
        self.five = nn.Sequential(conv_norm(inputs, reduce5), conv_norm(reduce5, five, 5))
        self.pool = nn.Sequential(nn.MaxPool2d(3, 1, 1), conv_norm(inputs, pool))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.one(x), self.three(x), self.five(x), self.pool(x)], 1)


def googlenet() -> nn.Module:
    layers: list[nn.Module] = [conv_norm(3, 64, 7, 2), nn.MaxPool2d(3, 2, 1)]
    layers += [conv_norm(64, 64), conv_norm(64, 192, 3), nn.MaxPool2d(3, 2, 1)]
    inputs = 192
    for row in ROWS:
        if row is None:
            layers.append(nn.MaxPool2d(3, 2, 1))
            continue
        layers.append(Inception(inputs, row))
        inputs = row[0] + row[2] + row[4] + row[5]
    return nn.Sequential(*layers, Classifier(inputs))


example_inputs, calibration = images(3, 224)


def model() -> nn.Module:
    return settled(googlenet, example_inputs, shift=1.0)
