"""The anomaly detector of MLPerf Tiny: an autoencoder of linear layers, 640 features."""

import itertools

import torch
from common import Data, data, settled
from torch import nn

WIDTHS = [640, 128, 128, 128, 128, 8, 128, 128, 128, 128]


def autoencoder() -> nn.Module:
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(WIDTHS):
        layers += [nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(WIDTHS[-1], WIDTHS[0]))


def vectors(width: int) -> Data:
    return data(lambda generator: (torch.randn(1, width, generator=generator),))


example_inputs, calibration = vectors(WIDTHS[0])


def model() -> nn.Module:
    return settled(autoencoder, example_inputs)
