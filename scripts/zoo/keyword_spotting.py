"""The keyword spotter of MLPerf Tiny: DS-CNN (Zhang et al. 2017, arXiv:1711.07128) over 49 x 10
features, twelve words.
"""

from common import Classifier, conv_norm, images, settled
from torch import nn


def ds_cnn() -> nn.Module:
    layers: list[nn.Module] = [
        nn.Conv2d(1, 64, (10, 4), (2, 2), (5, 1), bias=False), nn.BatchNorm2d(64), nn.ReLU()
    ]  # fmt: skip
    for _ in range(4):
        layers += [conv_norm(64, 64, 3, 1, 64), conv_norm(64, 64)]
    return nn.Sequential(*layers, Classifier(64, 12))


example_inputs, calibration = images(1, 49, 10)


def model() -> nn.Module:
    return settled(ds_cnn, example_inputs)
