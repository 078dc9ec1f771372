"""A two-layer LSTM classifier over 24 steps of 40 features."""

import torch
from common import settled, signals
from torch import nn

FEATURES, WIDTH, STEPS = 40, 64, 24


class Lstm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(FEATURES, WIDTH, num_layers=2, batch_first=True)
        self.head = nn.Linear(WIDTH, 12)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        states, _ = self.lstm(features.transpose(1, 2))
        return self.head(states[:, -1])


example_inputs, calibration = signals(FEATURES, STEPS)


def model() -> nn.Module:
    return settled(Lstm, example_inputs)
