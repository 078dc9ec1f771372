"""SqueezeNet 1.0 (Iandola et al. 2016, arXiv:1602.07360), 224 pixels."""

from common import images, settled
from squeezenet import Fire, pool
from torch import nn


def squeezenet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 96, 7, 2), nn.ReLU(), pool(),
        Fire(96, 16, 64), Fire(128, 16, 64), Fire(128, 32, 128), pool(),
        Fire(256, 32, 128), Fire(256, 48, 192), Fire(384, 48, 192), Fire(384, 64, 256), pool(),
        Fire(512, 64, 256),
        nn.Conv2d(512, 1000, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    )  # fmt: skip


example_inputs, calibration = images(3, 224)


def model() -> nn.Module:
    return settled(squeezenet, example_inputs)
