"""A plain multilayer perceptron: 784, 512, 512, 10."""

from autoencoder import vectors
from common import settled
from torch import nn


def mlp() -> nn.Module:
    return nn.Sequential(
        nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10)
    )


example_inputs, calibration = vectors(784)


def model() -> nn.Module:
    return settled(mlp, example_inputs)
