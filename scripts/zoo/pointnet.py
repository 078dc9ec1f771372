"""PointNet, no alignment nets (Qi et al. 2016, arXiv:1612.00593): 512 points, 40 classes."""

import torch
from common import data, settled
from torch import nn


class PointNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs in ((3, 64), (64, 128), (128, 1024)):
            layers += [nn.Conv1d(inputs, outputs, 1), nn.BatchNorm1d(outputs), nn.ReLU()]
        self.points = nn.Sequential(*layers)
        self.head = nn.Sequential(nn.Linear(1024, 256), nn.ReLU(), nn.Linear(256, 40))

    def forward(self, cloud: torch.Tensor) -> torch.Tensor:
        return self.head(self.points(cloud).amax(2))


example_inputs, calibration = data(lambda generator: (torch.randn(1, 3, 512, generator=generator),))


def model() -> nn.Module:
    return settled(PointNet, example_inputs)
